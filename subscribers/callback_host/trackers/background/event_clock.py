"""The time that a tracker's package stamps on what a hook logs."""

from __future__ import annotations

import threading
import time


class EventClock:
    """The time of ``event`` in the main thread, which calls the hooks; elsewhere the real time."""

    def __init__(self) -> None:
        self.event_time: float | None = None

    def time(self) -> float:
        """Seconds since the epoch, like ``time.time``."""
        if self.event_time is not None and threading.current_thread() is threading.main_thread():
            return self.event_time
        return time.time()
