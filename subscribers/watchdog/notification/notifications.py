"""All that leaves the watchdog for people and monitors elsewhere: notifications and heartbeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lineside.subscribers.state.state_file import StateFile
from lineside.subscribers.watchdog.notification.heartbeat import MAX_SILENCE, Heartbeat
from lineside.subscribers.watchdog.notification.notifier import Notifier
from lineside.subscribers.watchdog.notification.outbox import Outbox
from lineside.subscribers.watchdog.notification.target import Target


@dataclass(frozen=True)
class NotificationOptions:
    """The ``targets``; ``page``, the dashboard's address for links; the heartbeat's address.

    Without ``heartbeat_url`` there is no heartbeat. Its interval is in seconds, and so is
    ``max_silence``, after which a watchdog that judges nothing sends none.
    """

    targets: Sequence[Target] = ()
    page: str = ""
    heartbeat_url: str = field(default="", repr=False)
    heartbeat_interval: float = 60.0
    max_silence: float = MAX_SILENCE


class Notifications:
    """Queues notifications in ``state`` and sends them, and the heartbeat, until ``close``."""

    def __init__(self, state: StateFile, options: NotificationOptions) -> None:
        self.outbox = Outbox(state, options.targets, options.page)
        self._notifier = Notifier(self.outbox)
        self._heartbeat = (
            Heartbeat(options.heartbeat_url, options.heartbeat_interval, options.max_silence)
            if options.heartbeat_url
            else None
        )

    def start(self) -> None:
        """Begin with what an earlier process left; the heartbeat begins with the first ``beat``."""
        self._notifier.start()
        if self._heartbeat is not None:
            self._heartbeat.start()

    def wake(self) -> None:
        """Something was queued: call it after the transaction."""
        self._notifier.wake()

    def beat(self) -> None:
        """The watchdog has judged, and store and broker answered."""
        if self._heartbeat is not None:
            self._heartbeat.beat()

    def problems(self) -> dict[str, str]:
        """A sentence for each target, by its name, that took no message at the last attempt."""
        return self._notifier.problems()

    def close(self, timeout: float) -> None:
        """Stop within ``timeout`` seconds; what is not sent by then waits for the next start."""
        self._notifier.close(timeout)
        if self._heartbeat is not None:
            self._heartbeat.close(0.0)
