"""A callback host in a process of its own, runs for it, and what its callbacks wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.protocol.events import Event, Stream
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer
from lineside.subscribers.testing import synthetic_run
from tests.support.processes import Child, supervised
from tests.support.waiting import wait_until

SCRIPT = Path(__file__).with_name("run_host.py")
CALLBACKS = Path(__file__).with_name("sample_callbacks.py")
ATTEMPT = "20261121T000000.000-0000"


class HostProcess(Child):
    """``CallbackHost`` with ``entries``."""

    def __init__(
        self, settings: Settings, entries: Sequence[Mapping[str, Any]], max_processes: int = 64
    ) -> None:
        super().__init__(
            [str(SCRIPT), json.dumps(list(entries)), str(max_processes)],
            supervised(settings.home, LINESIDE_BROKER=settings.broker),
            settings.home / "host.log",
        )

    def wait_started(self) -> None:
        line = f"started, pid {self.pid}\n"
        wait_until(lambda: line in self.log_text(), "the host is up")


class Line(NamedTuple):
    """What a callback wrote at one hook."""

    pid: int
    hook: str
    step: int
    rest: str


def sample(name: str, **keys: Any) -> dict[str, Any]:
    """An entry for a class of ``sample_callbacks``; torch is hidden, since they need none."""
    return {"name": f"{CALLBACKS}:{name}", "torch": False, **keys}


def read_lines(file: Path) -> list[Line]:
    """What callbacks wrote into ``file``."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        Line(int(pid), hook, int(step), " ".join(rest))
        for pid, hook, step, *rest in (line.split() for line in lines)
    ]


def wait_for_hook(file: Path, hook: str, step: int | None = None) -> list[Line]:
    """The lines of ``file`` once one is of ``hook``."""
    wait_until(
        lambda: any(
            line.hook == hook and (step is None or line.step >= step) for line in read_lines(file)
        ),
        f"{hook} is called",
    )
    return read_lines(file)


def steps_of(lines: Iterable[Line], hook: str = "log") -> list[int]:
    return [line.step for line in lines if line.hook == hook]


def publish(producer: Producer, events: Iterable[tuple[Stream, Event]]) -> None:
    """Publish events with their times as now."""
    for _, event in events:
        producer.emit(event.kind, step=event.step, data=event.data, control=event.control)
    producer.flush(30)


def train(settings: Settings, run: str, steps: int = 5, **options: Any) -> None:
    """Publish a whole run."""
    with Producer(settings.broker, f"{run}/rank0/{ATTEMPT}") as producer:
        publish(producer, synthetic_run(steps, run=run, **options))
