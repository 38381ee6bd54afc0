"""Events like those of a Trainer's processes, in batches like those of the bus."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.store.recording.writer import Writer

START = 1_700_000_000.0
ATTEMPT = "20231114T221320-aaaa"
LATER_ATTEMPT = "20231114T231320-bbbb"
SHIPPER_ATTEMPT = "20231114T221300-ssss"


class FakeJournal:
    """Assigns offsets and delivers batches to a writer."""

    def __init__(self, writer: Writer, name: str = "journal") -> None:
        self.writer = writer
        self.name = name
        self.offsets = itertools.count(1)

    def batch(self, stream: Stream, events: Iterable[Event], *gaps: Gap) -> Batch:
        return Batch(next(self.offsets), stream, tuple(events), gaps)

    def deliver(self, *fake_producers: FakeProducer) -> None:
        """Deliver, in one transaction, the events emitted since the last delivery."""
        self.writer.apply(
            self.name, [self.batch(t.stream, t.take_events()) for t in fake_producers]
        )


class FakeProducer:
    """The stream of one producer. Each event takes 1 ms; ``tick`` adds seconds."""

    def __init__(
        self, run: str = "run", producer: str = "rank0", attempt: str = ATTEMPT, at: float = START
    ) -> None:
        self.stream = Stream(run, producer, attempt)
        self.seq = 0
        self.time = at
        self.step = 0
        self.epoch: float | None = None
        self.pending: list[Event] = []

    def tick(self, seconds: float) -> None:
        self.time += seconds

    def emit(self, kind: str, data: Mapping[str, Any] | None = None, **changes: Any) -> Event:
        fields = {"time": self.time, "step": self.step, "epoch": self.epoch, **changes}
        fields.setdefault("monotonic_ns", round((self.time - START) * 1e9))
        event = Event(seq=self.seq, kind=kind, data=data, **fields)
        self.pending.append(event)
        self.seq += 1
        self.time += 0.001
        return event

    def take_events(self) -> list[Event]:
        pending, self.pending = self.pending, []
        return pending

    def begin(self, **facts: Any) -> None:
        self.emit("run_start", {"name": "a run", "project": "tests", **facts})
        self.emit("init_end")
        self.emit("train_begin", {"state": {"max_steps": 10}})

    def log(self, **logs: Any) -> None:
        self.emit("log", {"logs": logs})

    def do_step(self, compute: float = 0.1, wait: float = 0.02, **logs: Any) -> None:
        """One optimizer step of these durations, with a log if ``logs`` are given."""
        self.emit("step_begin")
        self.emit("optimizer_step")
        self.tick(compute - 0.002)
        self.step += 1
        self.emit("step_end")
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
        self.emit("run_end", {"how": how, "error": error, "counters": counters})


def heartbeat(trainer: FakeProducer, **changes: Any) -> dict[str, Any]:
    """The data of a heartbeat about ``trainer``."""
    return {
        "producer": trainer.stream.producer,
        "attempt": trainer.stream.attempt,
        "rank": 0,
        "pid": 1,
        "host": "here",
        "step": trainer.step,
        "phase": "training",
        "hook_age": 0.1,
        "rss": 1000,
        "emitted": trainer.seq,
        "dropped": 0,
        "hook_errors": 0,
        "hook_ns": 1000,
        "hooks": 10,
        "acked": trainer.seq,
        **changes,
    }
