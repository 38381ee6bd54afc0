"""The worker of one callback in the test's own process, without a broker."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.commands import COMMAND, Command
from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.settings import Settings
from lineside.subscribers.callback_host.trackers.tracker import HookCall, RunEnd, Tracker
from lineside.subscribers.callback_host.worker import CallbackWorker
from lineside.subscribers.callback_host.worker_spec import WorkerSpec
from tests.subscribers.callback_host.host_process import ATTEMPT, sample

RUN = "run"


class TrackerAway(Exception):
    """What an SDK raises while its server is away."""


class NotingTracker(Tracker):
    """Notes its calls in ``notes``; it is away for the next ``failures`` calls of ``after``."""

    notes: list[tuple[Any, ...]] = []  # noqa: RUF012 - one tracker lives at a time
    failures = 0
    skipped_hooks: frozenset[str] = frozenset()

    def environment(self) -> dict[str, str]:
        return {"NOTING_RUN": self.run.id}

    def created(self, callback: Any) -> None:
        self.notes.append(("created", self.run.is_resumed, dict(self.run.identity)))

    def before(self, call: HookCall) -> bool:
        return call.hook not in self.skipped_hooks

    def after(self, call: HookCall) -> None:
        if NotingTracker.failures:
            NotingTracker.failures -= 1
            raise TrackerAway("connection refused")
        self.run.identity.setdefault("key", f"made in {self.run.attempt}")
        self.notes.append((call.hook, call.event.step))

    def is_delivery_error(self, error: Exception) -> bool:
        return isinstance(error, TrackerAway)

    def suspend(self, callback: Any) -> None:
        self.notes.append(("suspend",))

    def close(self, callback: Any, end: RunEnd) -> None:
        self.notes.append(("close", end.status, (end.error or {}).get("type")))


class Hosting:
    """A worker for ``entry`` and one attempt, whose state is in ``home``."""

    def __init__(
        self, home: Path, entry: dict[str, Any], attempt: str = ATTEMPT, run: str = RUN
    ) -> None:
        settings = Settings.from_env({"LINESIDE_HOME": str(home)})
        spec = WorkerSpec(entry, run, attempt, settings.broker, str(home / "callback"))
        self.worker = CallbackWorker(settings, spec)
        self.worker.startup()
        self._offset = 0

    def __enter__(self) -> Hosting:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.shutdown()

    def deliver(self, events: Iterable[tuple[Stream, Event]]) -> None:
        """Hand events over as the reader would, up to the end of the attempt."""
        for stream, event in events:
            if self.worker.should_exit:
                return
            self._offset += 1
            self.worker.handle([Batch(self._offset, stream, (event,), ())])
        self.worker.is_caught_up = True
        self.worker.tick(time.monotonic())

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The errors to be shown on the run's page."""
        return [dict(data) for data in self._published(SUBSCRIBER_ERROR)]

    @property
    def commands(self) -> list[Command]:
        """The commands to be sent."""
        return [Command.from_data(data) for data in self._published(COMMAND)]

    def _published(self, kind: str) -> list[dict[str, Any]]:
        state_file = self.worker._state_file
        return [
            dict(pending.publication.data or {})
            for stream in state_file.pending_streams()
            for pending in state_file.pending(stream, 0, 10_000)
            if pending.publication.kind == kind
        ]


def in_process(name: str, **keys: Any) -> dict[str, Any]:
    """An entry of a sample callback for a worker in the test's process, which keeps its torch."""
    return sample(name, **keys) | {"torch": True}


def at_now(events: Iterable[tuple[Stream, Event]], attempt: str = ATTEMPT) -> list[Any]:
    """Events as if they happened now, in ``attempt``."""
    return [
        (
            Stream(stream.run, stream.producer, attempt),
            Event(
                event.seq,
                time.time(),
                0,
                event.kind,
                event.step,
                event.epoch,
                event.control,
                event.data,
            ),
        )
        for stream, event in events
    ]
