"""How the ranks of one job come to the same run and attempt: rank 0 tells through its store."""

from __future__ import annotations

import contextlib
import os
from collections import Counter

from lineside.emitter.training.identity import Identity, Place
from lineside.emitter.training.jobstore import JobStore, PeersError

WAIT_FOR_RANK_0 = 5.0
"""Seconds a rank waits at train begin for rank 0 to say which run this is."""
_RETRY_SECONDS = 0.5  # that a step is held up by who asks again, while the store is ill
_occasions: Counter[str] = Counter()


class Agreement:
    """What rank 0 tells and the others hear of one run that is opened.

    Every rank makes one each time it opens a run, and so they find each other: keys carry the
    ``occasion`` (in the same words on every rank) and how often there was one, and torchrun's
    restart count, because a restarted job finds the keys of its previous life. It is a key in the
    job's own store and never a collective, which would hang if one rank did not take part.
    """

    def __init__(self, occasion: str) -> None:
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._prefix = f"lineside/{restart}/{occasion}"
        self._name = str(_occasions[occasion])
        self._store: JobStore | None = None
        _occasions[occasion] += 1

    def tell(self, identity: Identity) -> None:
        """Rank 0: say which run this is, if there are others. Raises nothing of ours."""
        if identity.place.world_size == 1:
            return
        with contextlib.suppress(PeersError):
            store = self._opened()
            with store.patience(WAIT_FOR_RANK_0):
                store.set(self._name, identity.mark())

    def hear(self, place: Place, wait: float) -> Identity | None:
        """Other ranks: what rank 0 said, waiting at most ``wait`` seconds; None if nothing yet."""
        try:
            store = self._opened()
            with store.patience(max(wait, _RETRY_SECONDS)):
                said = store.wait(self._name, wait)
            if said is None:
                return None
            return Identity(said["run_id"], said["attempt"], said["name"], said["project"], place)
        except (PeersError, KeyError, TypeError, ValueError):
            return None

    def _opened(self) -> JobStore:
        if self._store is None:
            self._store = JobStore(self._prefix)
        return self._store
