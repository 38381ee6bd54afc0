"""Shows on a run's page that the process of a callback ended by itself, or cannot be started."""

from __future__ import annotations

import time
from collections.abc import Mapping

from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.subscribers.callback_host.worker_spec import READER
from lineside.subscribers.handler_runner import is_reported_count
from lineside.subscribers.publication_sender import PublicationSender
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState

_MESSAGE_LENGTH = 1000


class ProcessReports:
    """The reports about one callback and run: of the first failure, the tenth, and so on.

    They are in a stream of the manager's, since the callback's process numbers its own.
    """

    def __init__(
        self, entry: str, run: str, state_file: SubscriberState, sender: PublicationSender
    ) -> None:
        self._entry = entry
        self._run = run
        self._state_file = state_file
        self._sender = sender
        self._failures = 0
        self._is_failing = False

    def fail(self, attempt: str, text: str, last: Event | None) -> None:
        """A process ended or could not be started, as ``text`` describes; ``last`` is the newest
        event of the attempt."""
        self._failures += 1
        if is_reported_count(self._failures):
            self._is_failing = True
            error = {"type": "ProcessEnded", "message": text[:_MESSAGE_LENGTH]}
            self._publish(attempt, "retrying", error, last)

    def recover(self, attempt: str, last: Event | None) -> None:
        """A process is well."""
        if self._is_failing:
            self._is_failing = False
            self._publish(attempt, "recovered", None, last)

    def _publish(
        self, attempt: str, action: str, error: Mapping[str, str] | None, last: Event | None
    ) -> None:
        last = last or Event(0, 0.0, 0, "run_start")
        data = {
            "subscriber": self._entry,
            "action": action,
            "method": "process",
            "kind": last.kind,
            "producer": RANK_0,
            "seq": last.seq,
            "tries": self._failures,
            "errors": self._failures,
            "error": error,
        }
        stream, now = Stream(self._run, READER, attempt), time.time()
        self._state_file.publish(
            Publication(stream, SUBSCRIBER_ERROR, last.step, last.epoch, now, data)
        )
        self._sender.wake()
