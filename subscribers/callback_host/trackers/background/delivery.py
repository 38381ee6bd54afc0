"""Trackers whose package sends in the background: a hook counts once all is sent."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from lineside.bus.errors import LinesideError
from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun, Tracker

FLUSH_SECONDS = 60.0
"""How long one try waits for the tracker's package to send."""


def stable_id(run: HostedRun) -> str:
    """64 hexadecimal digits for this callback and run, the same in every process and attempt."""
    return hashlib.sha256(str(run.folder).encode()).hexdigest()


class NotDelivered(LinesideError):
    """The tracker's package still holds what a hook logged.

    Attributes:
        tracker: the tracker's short name.
        seconds: how long this try waited.
    """

    def __init__(self, tracker: str, seconds: float) -> None:
        super().__init__(
            f"{tracker} has not sent what the callback logged within {seconds:g} s; its package "
            "holds it and is waited for again: see its lines in output.log for the reason"
        )
        self.tracker, self.seconds = tracker, seconds


class BackgroundTracker(Tracker):
    """A tracker that queues what a hook logs. A hook that was called is never called again for
    the same event: the next try only waits for the queue."""

    name: ClassVar[str] = ""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._unsent: tuple[str, int] | None = None

    def before(self, call: HookCall) -> bool:
        return self._unsent != (call.hook, call.event.seq)

    def after(self, call: HookCall) -> None:
        self._unsent = (call.hook, call.event.seq)
        self.flush(call.callback)
        self._unsent = None

    def is_delivery_error(self, error: Exception) -> bool:
        return isinstance(error, (NotDelivered, OSError))

    def flush(self, callback: Any) -> None:
        """Wait until all is sent.

        Raises:
            NotDelivered: it is not.
        """
        raise NotImplementedError

    def suspend(self, callback: Any) -> None:
        self.flush(callback)
