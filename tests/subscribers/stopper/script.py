"""A training as events, without one: what a Trainer would say, for rules to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.stopper.course import Firing
from lineside.subscribers.stopper.memory import Memory
from lineside.subscribers.stopper.reading import rule
from lineside.subscribers.stopper.watch import Watch


class Script:
    """One attempt, told to ``watch`` event by event; ten seconds pass with each step."""

    def __init__(
        self,
        watch: Watch,
        attempt: str = "a1",
        start: float = 0.0,
        step: int = 0,
        on_start: float | None = None,
        **facts: Any,
    ) -> None:
        self.watch = watch
        self.stream = Stream("run", "rank0", attempt)
        self.firings: list[Firing] = []
        self.events: list[Event] = []
        self.step = step
        self._first = step
        self._start = start
        self.tell("run_start", {"name": "a run", "project": "tests", **facts})
        self.tell("train_begin")
        if on_start is not None:
            self.measure({"eval_loss": on_start})
        self.tell("epoch_begin")

    @property
    def fired(self) -> list[tuple[str, int]]:
        return [(firing.action, firing.step) for firing in self.firings]

    def tell(self, kind: str, data: Mapping[str, Any] | None = None) -> None:
        time = self._start + 10.0 * (self.step - self._first)
        self.events.append(Event(len(self.events), time, 0, kind, self.step, None, 0, data))
        self.firings += self.watch.take(self.stream, self.events[-1])

    def go(self, steps: int = 1, **logs: float) -> None:
        """Train; with ``logs`` also log after each step."""
        for _ in range(steps):
            self.tell("step_begin")
            self.step += 1
            self.tell("step_end")
            if logs:
                self.tell("log", {"logs": logs})

    def evaluate(self, *values: float, name: str = "eval_loss", save: bool = False) -> None:
        """A step and an evaluation for each of ``values``."""
        for value in values:
            self.go()
            self.measure({name: value})
            if save:
                self.tell("save")

    def measure(self, metrics: Mapping[str, float]) -> None:
        """As a Trainer: it logs what it evaluated, and says so."""
        self.tell("log", {"logs": {**metrics, "epoch": 1.0}})
        self.tell("evaluate", {"metrics": {**metrics, "epoch": 1.0}})


def watch_of(*given: Mapping[str, Any]) -> Watch:
    return Watch([rule(one, "a test") for one in given], Memory())


def fired(given: Mapping[str, Any], values: Sequence[float], name: str = "eval_loss") -> list[int]:
    """At which of these evaluations, from 1 on, the rule acts."""
    script = Script(watch_of(given))
    script.evaluate(*values, name=name)
    return [firing.step for firing in script.firings]
