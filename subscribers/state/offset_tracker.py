"""Keeps how far the journal is processed while batches of many runs end out of order."""

from __future__ import annotations

import threading
from collections import deque


class OffsetTracker:
    """Offsets are added in order and finished in any; ``processed`` is behind none that is open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: deque[int] = deque()
        self._finished: set[int] = set()
        self._processed = 0

    def add(self, offset: int) -> None:
        """A batch ending at ``offset`` is to be processed."""
        with self._lock:
            self._open.append(offset)

    def finish(self, offset: int) -> None:
        """The batch ending at ``offset`` is processed; a second time is nothing."""
        with self._lock:
            if not self._open or offset < self._open[0]:
                return
            self._finished.add(offset)
            while self._open and self._open[0] in self._finished:
                self._processed = self._open.popleft()
                self._finished.discard(self._processed)

    @property
    def processed(self) -> int:
        """Everything up to this offset is processed; 0 before the first."""
        return self._processed

    @property
    def open_count(self) -> int:
        """How many batches wait or are being processed."""
        return len(self._open)
