"""How many runs work in the archive at the same time, and in which order they take turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_COPYING = 2
"""Runs whose checkpoints are copied at the same time; each sends several parts at once."""
_POLL_SECONDS = 0.02


class Slots:
    """Places for ``most`` runs; the run that has asked for longest gets the next one."""

    def __init__(self, most: int = MAX_COPYING) -> None:
        self._most = most
        self._waiting: list[str] = []
        self._working: dict[str, Callable[[], None]] = {}
        self._is_stopping = False
        self._lock = threading.Lock()

    @property
    def has_waiting(self) -> bool:
        """Whether a run waits for a place."""
        with self._lock:
            return bool(self._waiting)

    def take(self, run: str, stop: Callable[[], None]) -> bool:
        """Take a place; without one the run is noted, and asks again. ``stop`` stops its work."""
        with self._lock:
            if run not in self._waiting:
                self._waiting.append(run)
            free = self._most - len(self._working)
            if self._is_stopping or run in self._working or self._waiting.index(run) >= free:
                return False
            self._waiting.remove(run)
            self._working[run] = stop
            return True

    def withdraw(self, run: str) -> None:
        """The run needs no place any more."""
        with self._lock:
            if run in self._waiting:
                self._waiting.remove(run)

    def give_back(self, run: str) -> None:
        with self._lock:
            self._working.pop(run, None)

    def stop(self, timeout: float) -> bool:
        """Give no more places and stop all work; whether it has ended within ``timeout``."""
        with self._lock:
            self._is_stopping = True
            working = list(self._working.values())
        for stop in working:
            stop()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with self._lock:
                if not self._working:
                    return True
            time.sleep(_POLL_SECONDS)
        return False
