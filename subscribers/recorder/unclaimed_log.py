"""Logs runs that have events and cannot be shown."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from lineside.bus.errors import StoreError
from lineside.store.history.unclaimed import EXPLANATION, unclaimed_runs

log = logging.getLogger("lineside")

CHECK_SECONDS = 60.0
"""A run that has not begun for this long is logged, once."""


class UnclaimedLog:
    """Logs each run once whose events come from no producer called ``rank0``."""

    def __init__(self) -> None:
        self._next_check = 0.0
        self._waiting: frozenset[str] = frozenset()  # at the last check
        self._logged: frozenset[str] = frozenset()

    def check(self, engine: Engine, now: float) -> None:
        """Look at the store if it is time; ``now`` is monotonic."""
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        try:
            found = unclaimed_runs(engine)
        except StoreError:
            return  # the recorder itself reports that
        for run in sorted((self._waiting & found.keys()) - self._logged):
            log.warning(
                "recorder: events of run %s come from %s: %s",
                run,
                ", ".join(found[run]),
                EXPLANATION,
            )
        self._logged |= self._waiting & found.keys()
        self._logged &= found.keys()
        self._waiting = frozenset(found)
