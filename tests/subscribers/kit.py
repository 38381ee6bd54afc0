"""Subscribers for tests of the kit, and a kit served in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from lineside.bus.protocol.events import Event
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer, read_all
from lineside.subscribers import LogEvent, RunContext, Subscriber
from lineside.subscribers.service import SubscriberService
from tests.support.waiting import DEADLINE

ATTEMPT = "20261121T000000-0000"


class LogCounter(Subscriber):
    """Counts the logs of each run in its state, and writes the count into ``folder``."""

    name = "counter"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        state = run.open_state()
        state["logs"] = state.get("logs", 0) + 1
        state["sum"] = state.get("sum", 0) + event.logs["loss"]

    def flush(self, run: RunContext) -> None:
        state = run.open_state()
        (self.folder / run.id).write_text(f"{state['logs']} {state['sum']}")


class ServedKit:
    """``SubscriberService`` turned by a thread of the test's process; stopped on leaving."""

    def __init__(
        self,
        settings: Settings,
        subscriber: type[Subscriber],
        factory: Callable[[], Subscriber] | None = None,
        **options: Any,
    ) -> None:
        self.service = SubscriberService(settings, subscriber, factory, **options)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> ServedKit:
        self.service.startup()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.service.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def is_late(self, run: str) -> bool:
        """Whether the run has a cursor of its own."""
        return run in self.service._queues and self.service._queues[run].is_late

    def wait_ended(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            while not self.service.should_exit:
                self.service.run_once()
        except BaseException as error:  # noqa: BLE001 - the test asserts on it
            self.error = error
        finally:
            self.service.shutdown()


def train(address: str, run: str, logs: range, attempt: str = ATTEMPT) -> None:
    """Publish a run's logs, after its start if they begin with the first."""
    with Producer(address, f"{run}/rank0/{attempt}") as producer:
        producer.emit("run_start", data={"name": f"name of {run}", "project": "tests"})
        producer.emit("train_begin", data={"state": {"max_steps": 100}})
        for step in logs:
            producer.emit("log", step=step, data={"logs": {"loss": step}})
        producer.flush(30)


def published(settings: Settings, pattern: str, *kinds: str) -> list[Event]:
    """The events of these kinds in the journal."""
    events = read_all(settings.broker, [pattern])
    return [event for event in events if event.kind in kinds]


async def pause() -> None:
    await asyncio.sleep(0.001)
