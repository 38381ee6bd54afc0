"""Events as a Trainer's producers make them, in batches as the bus delivers them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.store.recording.writes import Writer

START = 1_700_000_000.0
ATTEMPT = "20231114T221320-aaaa"
LATER_ATTEMPT = "20231114T231320-bbbb"


class Journal:
    """Hands out offsets, and delivers to a writer."""

    def __init__(self, writer: Writer, name: str = "journal") -> None:
        self.writer = writer
        self.name = name
        self.offsets = itertools.count(1)

    def batch(self, stream: Stream, events: Iterable[Event], *gaps: Gap) -> Batch:
        return Batch(next(self.offsets), stream, tuple(events), gaps)

    def deliver(self, *tellers: Teller) -> None:
        """One transaction with what each teller has told since the last time."""
        self.writer.apply(self.name, [self.batch(t.stream, t.take()) for t in tellers])


class Teller:
    """One producer's stream. Time passes a millisecond an event, and by ``tick`` (seconds)."""

    def __init__(
        self, run: str = "run", producer: str = "rank0", attempt: str = ATTEMPT, at: float = START
    ) -> None:
        self.stream = Stream(run, producer, attempt)
        self.seq = 0
        self.time = at
        self.step = 0
        self.epoch: float | None = None
        self.told: list[Event] = []

    def tick(self, seconds: float) -> None:
        self.time += seconds

    def tell(self, kind: str, data: Mapping[str, Any] | None = None, **changes: Any) -> Event:
        fields = {"time": self.time, "step": self.step, "epoch": self.epoch, **changes}
        fields.setdefault("monotonic_ns", round((self.time - START) * 1e9))
        event = Event(seq=self.seq, kind=kind, data=data, **fields)
        self.told.append(event)
        self.seq += 1
        self.time += 0.001
        return event

    def take(self) -> list[Event]:
        told, self.told = self.told, []
        return told

    def begin(self, **facts: Any) -> None:
        self.tell("run_start", {"name": "a run", "project": "tests", **facts})
        self.tell("init_end")
        self.tell("train_begin", {"state": {"max_steps": 10}})

    def log(self, **logs: Any) -> None:
        self.tell("log", {"logs": logs})

    def do_step(self, compute: float = 0.1, wait: float = 0.02, **logs: Any) -> None:
        """One optimizer step that takes so long, with a log if there is anything to log."""
        self.tell("step_begin")
        self.tell("optimizer_step")
        self.tick(compute - 0.002)
        self.step += 1
        self.tell("step_end")
        if logs:
            self.log(**logs)
            self.tick(-0.001)
        self.tick(wait - 0.001)

    def end(self, how: str = "exit", error: Mapping[str, str] | None = None) -> None:
        counters = {
            "emitted": self.seq + 1,
            "dropped": 0,
            "hook_errors": 0,
            "hook_ns": 5,
            "hooks": 2,
        }
        self.tell("run_end", {"how": how, "error": error, "counters": counters})


def heartbeat(of: Teller, **changes: Any) -> dict[str, Any]:
    """The data of a heartbeat about ``of``."""
    return {
        "producer": of.stream.producer,
        "attempt": of.stream.attempt,
        "rank": 0,
        "pid": 1,
        "host": "here",
        "step": of.step,
        "phase": "training",
        "hook_age": 0.1,
        "rss": 1000,
        "emitted": of.seq,
        "dropped": 0,
        "hook_errors": 0,
        "hook_ns": 1000,
        "hooks": 10,
        "acked": of.seq,
        **changes,
    }
