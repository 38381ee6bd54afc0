"""Shares rank 0's run and attempt with the other ranks, through the job's store."""

from __future__ import annotations

import contextlib
import os
from collections import Counter

from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.identity import Identity, RankInfo
from lineside.emitter.training.job_store import ConsensusError, JobStore

WAIT_FOR_RANK_0 = 5.0
"""Seconds that a rank waits at train begin for rank 0 to publish its run."""
_RETRY_SECONDS = 0.5  # limit for a later look in the middle of training
HANDSHAKE_RESULT = "handshake"
"""Key below ``control_prefix``: why no commands are applied, empty if they are."""
_label_counts: Counter[str] = Counter()


class RunSync:
    """Publishes or receives the identity of one run that is opened.

    Every rank makes one each time it opens a run. The key has the ``label``, equal on all ranks, a
    count of its uses, and torchrun's restart count, because a restarted job finds its old keys. It
    is a key in the job's store and never a collective, which hangs if one rank does not take part.
    """

    def __init__(self, label: str) -> None:
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._prefix = f"lineside/{restart}/{label}"
        self._name = str(_label_counts[label])
        self._store: JobStore | None = None
        _label_counts[label] += 1

    def publish(self, identity: Identity) -> None:
        """On rank 0: publish the identity, if there are other ranks. Raises no ConsensusError."""
        if identity.rank_info.world_size == 1:
            return
        with contextlib.suppress(ConsensusError):
            store = self._open_store()
            with store.timeout(WAIT_FOR_RANK_0):
                store.set(self._name, identity.checkpoint_state())

    def receive(self, rank_info: RankInfo, wait: float) -> Identity | None:
        """On other ranks: the identity within ``wait`` seconds; None if it is not there."""
        try:
            store = self._open_store()
            with store.timeout(max(wait, _RETRY_SECONDS)):
                received = store.wait(self._name, wait)
            if received is None:
                return None
            return Identity(
                received["run_id"],
                received["attempt"],
                received["name"],
                received["project"],
                rank_info,
            )
        except (ConsensusError, KeyError, TypeError, ValueError):
            return None

    def _open_store(self) -> JobStore:
        if self._store is None:
            self._store = JobStore(self._prefix)
        return self._store


def control_prefix(identity: Identity) -> str:
    """Prefix of the keys with which the ranks of ``identity`` agree on commands."""
    return f"lineside/control/{identity.attempt}"


def abandon_control(identity: Identity, error: Exception) -> None:
    """On rank 0: publish to the other ranks that it failed with ``error`` and will not lead."""
    if identity.rank_info.rank == 0 and identity.rank_info.world_size > 1:
        with contextlib.suppress(ConsensusError):  # without a store no rank waits
            store = JobStore(control_prefix(identity))
            store.set_nowait(
                HANDSHAKE_RESULT, {"why": f"rank 0 takes no commands ({one_line(error)})"}
            )
            store.close()
