"""The events of a training, made without a Trainer and given to rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.stopper.attempt_state import Trigger
from lineside.subscribers.stopper.rule_engine import RuleEngine
from lineside.subscribers.stopper.rule_parser import parse_rule
from lineside.subscribers.stopper.state_store import StateStore


class SyntheticRun:
    """One attempt, given to ``rule_engine`` event by event; a step takes ten seconds."""

    def __init__(
        self,
        rule_engine: RuleEngine,
        attempt: str = "a1",
        start: float = 0.0,
        step: int = 0,
        on_start: float | None = None,
        **facts: Any,
    ) -> None:
        self.rule_engine = rule_engine
        self.stream = Stream("run", "rank0", attempt)
        self.triggers: list[Trigger] = []
        self.events: list[Event] = []
        self.step = step
        self._first = step
        self._start = start
        self.emit("run_start", {"name": "a run", "project": "tests", **facts})
        self.emit("train_begin")
        if on_start is not None:
            self.log_evaluation({"eval_loss": on_start})
        self.emit("epoch_begin")

    @property
    def triggered(self) -> list[tuple[str, int]]:
        return [(trigger.action, trigger.step) for trigger in self.triggers]

    def emit(self, kind: str, data: Mapping[str, Any] | None = None) -> None:
        time = self._start + 10.0 * (self.step - self._first)
        self.events.append(Event(len(self.events), time, 0, kind, self.step, None, 0, data))
        self.triggers += self.rule_engine.handle(self.stream, self.events[-1])

    def train(self, steps: int = 1, **logs: float) -> None:
        """Train; with ``logs`` also log after each step."""
        for _ in range(steps):
            self.emit("step_begin")
            self.step += 1
            self.emit("step_end")
            if logs:
                self.emit("log", {"logs": logs})

    def evaluate(self, *values: float, name: str = "eval_loss", save: bool = False) -> None:
        """A step and an evaluation for each of ``values``."""
        for value in values:
            self.train()
            self.log_evaluation({name: value})
            if save:
                self.emit("save")

    def log_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Log the metrics and publish the evaluation, as a Trainer does."""
        self.emit("log", {"logs": {**metrics, "epoch": 1.0}})
        self.emit("evaluate", {"metrics": {**metrics, "epoch": 1.0}})


def make_rule_engine(*given: Mapping[str, Any]) -> RuleEngine:
    return RuleEngine([parse_rule(one, "a test") for one in given], StateStore())


def triggered(
    given: Mapping[str, Any], values: Sequence[float], name: str = "eval_loss"
) -> list[int]:
    """The numbers of the evaluations, from 1, at which the rule acts."""
    script = SyntheticRun(make_rule_engine(given))
    script.evaluate(*values, name=name)
    return [trigger.step for trigger in script.triggers]
