"""The state of one attempt of a run: what rules need of its events, and the state of each rule."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.bus.protocol.metric_points import MetricPoints, numbers
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.conditions import (
    SECONDS,
    STEPS,
    Observation,
    RuleState,
    restored,
    trigger_reason,
)
from lineside.subscribers.stopper.rules import EVAL_PREFIX, Rule

TRAINER, LOOP = "trainer", "loop"
EVALUATIONS, LOGS = "evaluate", "log"
"""Where metrics come from. A Trainer's of evaluations begin with ``EVAL_PREFIX``."""
EPOCH = "epoch"  # a Trainer adds it to each log and evaluation; no metric
NOT_STARTED, STARTING, TRAINING, ENDED = "before", "starting", "training", "over"
_LOGS_UNTIL_MISSING = 3  # logs without a metric, after which it is reported as missing
_MAX_NAMES = 20  # names of other metrics that a report lists
_BUDGET_CONDITIONS = (rules.MAX_SECONDS, rules.MAX_STEPS)


@dataclass(frozen=True)
class Trigger:
    """A rule that acts, at the event ``seq`` of ``stream``.

    ``action`` is one of ``rules.ACTIONS`` and ``args`` are the command's arguments. If the rule's
    metric is missing, ``action`` is ``alert`` and ``names`` lists the metrics that there are.
    ``id`` is the same each time the event is read.
    """

    rule: Rule
    stream: Stream
    seq: int
    step: int
    time: float
    action: str
    reason: str
    args: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()

    @property
    def id(self) -> str:
        identity = f"{self.rule!r} {self.action} {self.stream} {self.seq}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass
class AttemptState:
    """What is known of one attempt.

    ``evaluations`` counts rounds: evaluations at one step, of several datasets for example, are one
    round until a metric of it comes again. ``evaluated`` holds the metrics of the newest round,
    ``names`` those that came at all: of evaluations, and others. ``rule_states`` holds the state of
    each rule, by its name. ``earlier_seconds`` is the training time before this attempt,
    ``wait_seconds`` how long it waits for the stopper at an evaluation.
    """

    run: str
    attempt: str
    name: str = ""
    project: str = ""
    source: str = TRAINER
    wait_seconds: float = 0.0
    phase: str = NOT_STARTED
    next_seq: int = 0
    step: int = 0
    started_at: float | None = None
    time: float = 0.0
    earlier_seconds: float = 0.0
    learning_rate: float | None = None
    evaluations: int = 0
    last_evaluation_step: int | None = None
    evaluated: list[str] = field(default_factory=list)
    logs: int = 0
    names: dict[str, list[str]] = field(default_factory=lambda: {EVALUATIONS: [], LOGS: []})
    points: MetricPoints = field(default_factory=MetricPoints)
    rule_states: dict[str, RuleState] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> AttemptState:
        """The inverse of ``to_dict``."""
        return cls(**{**saved, "points": MetricPoints(**saved.get("points", {}))})

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        return asdict(self)

    def snapshot(self) -> dict[str, Any]:
        """What a training that resumes here continues with."""
        return {"evaluations": self.evaluations, "states": self.rule_states}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue with the snapshot of an earlier attempt."""
        self.evaluations = snapshot["evaluations"]
        self.rule_states = {name: restored(state) for name, state in snapshot["states"].items()}

    @property
    def is_training(self) -> bool:
        return self.phase in (STARTING, TRAINING)

    @property
    def trained_seconds(self) -> float:
        """Seconds of training over all attempts of the run, pauses included."""
        return self.earlier_seconds + (
            0.0 if self.started_at is None else max(0.0, self.time - self.started_at)
        )

    def handle(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        """Yield the triggers of ``matching_rules`` at ``event``."""
        handler = getattr(self, f"_on_{event.kind}", None)
        if self.is_training:
            self.time, self.step = event.time, event.step
        if handler is not None:
            yield from handler(event, matching_rules) or ()

    def _on_run_start(self, event: Event, _matching_rules: Sequence[Rule]) -> None:
        data = event.data or {}
        self.name, self.project = str(data.get("name") or ""), str(data.get("project") or "")
        self.source = str(data.get("source") or TRAINER)
        wait_seconds = data.get("wait_for_stopper")
        self.wait_seconds = float(wait_seconds) if isinstance(wait_seconds, (int, float)) else 0.0
        if self.source == LOOP:
            self._start_training(event)
            self.phase = TRAINING

    def _on_train_begin(self, event: Event, _matching_rules: Sequence[Rule]) -> None:
        self._start_training(event)

    def _on_epoch_begin(self, _event: Event, _matching_rules: Sequence[Rule]) -> None:
        self.phase = TRAINING if self.is_training else self.phase

    def _on_step_end(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        if self.phase == NOT_STARTED:  # the journal no longer has the beginning
            self._start_training(event)
        if not self.is_training:
            return
        self.phase = TRAINING
        yield from self._check_step(event, matching_rules)

    def _on_log(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        points = self._new_points(event)
        if not self.is_training or not points:
            return
        # A Trainer logs the metrics of an evaluation before it ends.
        evaluated = {name for name in points if name.startswith(EVAL_PREFIX)}
        self.logs += self.source == LOOP or evaluated != points.keys()
        self.learning_rate = points.get("learning_rate", self.learning_rate)
        yield from self._check_points(
            points, self._round_of(evaluated, event.step), event, matching_rules
        )

    def _on_evaluate(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        points = self._new_points(event)
        if not self.is_training:
            return
        evaluated = numbers(event).keys() - {EPOCH}
        before, self.evaluations = self.evaluations, self._round_of(evaluated, event.step)
        self.evaluated = sorted(
            evaluated.union(self.evaluated if before == self.evaluations else ())
        )
        self.last_evaluation_step = event.step
        yield from self._check_points(points, self.evaluations, event, matching_rules)

    def _on_predict(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        points = self._new_points(event)
        if self.is_training and points:
            yield from self._check_points(points, self.evaluations, event, matching_rules)

    def _on_train_end(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        if self.is_training:
            for rule in matching_rules:
                if rule.monitor is not None:
                    yield from self._check_missing_metric(rule, event, has_ended=True)
        self.phase = ENDED

    _on_train_error = _on_run_end = _on_train_end  # the script may go on, the training does not

    def _start_training(self, event: Event) -> None:
        self.phase, self.started_at = STARTING, event.time
        self.time, self.step = event.time, event.step

    def _new_points(self, event: Event) -> dict[str, float]:
        """The points that the event adds to the charts, without the epoch."""
        points = self.points.of(event)
        points.pop(EPOCH, None)
        return points

    def _round_of(self, names: Set[str], step: int) -> int:
        """The number of the round to which an evaluation with these metrics belongs."""
        is_same = step == self.last_evaluation_step and names.isdisjoint(self.evaluated)
        return self.evaluations if is_same else self.evaluations + 1

    def _check_step(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        """Check what depends on steps alone: budgets, and metrics that are missing."""
        observation = Observation(
            {SECONDS: self.trained_seconds, STEPS: event.step}, event.step, event.time
        )
        for rule in matching_rules:
            if rule.condition in _BUDGET_CONDITIONS:
                yield from self._apply_rule(rule, observation, event, self.evaluations)
            elif rule.monitor is not None:
                yield from self._check_missing_metric(rule, event, has_ended=False)

    def _check_points(
        self,
        points: Mapping[str, float],
        round_: int,
        event: Event,
        matching_rules: Sequence[Rule],
    ) -> Iterator[Trigger]:
        observation = Observation(
            points, event.step, event.time, counts_for_best=self.phase == TRAINING
        )
        for name in points:
            known = self.names[EVALUATIONS if name.startswith(EVAL_PREFIX) else LOGS]
            if name not in known and len(known) < _MAX_NAMES:
                known.append(name)
        for rule in matching_rules:
            is_present = rule.monitor is None or rule.monitor in points
            if rule.condition not in _BUDGET_CONDITIONS and is_present:
                if rule.monitor is not None:
                    self._state(rule)["seen"] = True
                yield from self._apply_rule(rule, observation, event, round_)
        if self.source == LOOP:  # a loop need not publish step ends
            yield from self._check_step(event, matching_rules)

    def _apply_rule(
        self, rule: Rule, observation: Observation, event: Event, round_: int
    ) -> Iterator[Trigger]:
        start = rule.start_after
        if 0 < start.step >= observation.step or 0 < start.evaluations >= round_:
            return
        reason = trigger_reason(rule, self._state(rule), observation)
        if reason is None:
            return
        action, args = rule.action, {}
        if self.source == LOOP and action != rules.ALERT:
            action, reason = rules.ALERT, f"{reason}; a loop takes no commands"
        elif action == rules.SET_LR:
            if self.learning_rate is None:
                action, reason = rules.ALERT, f"{reason}; no learning_rate was logged to be lowered"
            else:
                new_rate = max(self.learning_rate * (rule.factor or 1.0), rule.min_lr)
                if not 0 < new_rate < self.learning_rate:
                    return
                self.learning_rate, args = new_rate, {"lr": new_rate}
        elif action in (rules.STOP, rules.SAVE_AND_STOP):
            args = {"save": action == rules.SAVE_AND_STOP}
        yield self._trigger(rule, event, action, reason, args=args)

    def _check_missing_metric(
        self, rule: Rule, event: Event, *, has_ended: bool
    ) -> Iterator[Trigger]:
        """Report once that the metric is missing although it was due."""
        state = self._state(rule)
        if state.get("seen") or state.get("reported_missing"):
            return
        if rule.monitors_evaluations:
            names = self.names[EVALUATIONS]
            is_due = (
                self.last_evaluation_step is not None and event.step > self.last_evaluation_step
            )
        else:
            names = self.names[LOGS]
            is_due = self.logs >= _LOGS_UNTIL_MISSING
        if self.source == LOOP:  # a loop may publish any metric by either
            names = [*self.names[LOGS], *self.names[EVALUATIONS]]
        if is_due or has_ended:
            state["reported_missing"] = True
            what = f"there are {', '.join(names)}" if names else "no such metric came"
            reason = (
                f"{rule.monitor} did not come with logs or evaluations, so the rule cannot hold: "
                f"{what}"
            )
            yield self._trigger(rule, event, rules.ALERT, reason, names=tuple(names))

    def _trigger(self, rule: Rule, event: Event, action: str, reason: str, **more: Any) -> Trigger:
        stream = Stream(self.run, RANK_0, self.attempt)
        return Trigger(rule, stream, event.seq, event.step, event.time, action, reason, **more)

    def _state(self, rule: Rule) -> RuleState:
        return self.rule_states.setdefault(rule.name, {})
