"""A limit of bytes a second."""

from __future__ import annotations

import asyncio
import threading
import time

_BURST_SECONDS = 0.1


class Pace:
    """Delays its callers so that they stay below ``bytes_per_second`` on average; 0 is no limit.

    It may be shared by threads.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def piece_bytes(self) -> int:
        """How many bytes to take at a time, so that the limit holds over a tenth of a second."""
        return max(1024, min(1 << 20, int(self.bytes_per_second * _BURST_SECONDS)))

    async def take(self, count: int) -> None:
        """Wait until ``count`` bytes may go."""
        if not self.bytes_per_second:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(self._free_at, now - _BURST_SECONDS)
            self._free_at = begin + count / self.bytes_per_second
            delay = self._free_at - now
        if delay > 0:
            await asyncio.sleep(delay)
