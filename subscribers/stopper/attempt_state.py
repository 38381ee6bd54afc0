"""The course of one attempt of a run, as far as rules care: what came, and how each rule stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lineside.bus.protocol.events import Event, Stream
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
NOT_STARTED, STARTING, TRAINING, ENDED = "before", "starting", "training", "over"
_LOGS_UNTIL_MISSING = 3  # after so many without a metric that is logged, it is missed
_MAX_NAMES = 20  # names told of what did come instead
_BUDGET_CONDITIONS = (rules.MAX_SECONDS, rules.MAX_STEPS)


@dataclass(frozen=True)
class Trigger:
    """A rule that acts, at the event ``seq`` of ``stream``.

    ``args`` are the command's; ``action`` is one of ``rules.ACTIONS``, ``alert`` also where a
    metric is missing, and then ``names`` says which there are. ``id`` is the same however often the
    event is read.
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
        said = f"{self.rule!r} {self.action} {self.stream} {self.seq}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass
class AttemptState:
    """Everything known of one attempt. ``Course(**course.data())`` is the same again.

    ``rule_states`` are the rules' own, by name. ``earlier_seconds`` is for how many seconds the
    run was trained
    before this attempt, ``wait_seconds`` for how many it waits for a verdict on an evaluation.
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
    last_evaluation_step: int | None = None  # the step of the newest one
    logs: int = 0
    names: dict[str, list[str]] = field(default_factory=lambda: {"evaluate": [], "log": []})
    rule_states: dict[str, RuleState] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    def snapshot(self) -> dict[str, Any]:
        """What a training that goes on from here takes with it."""
        return {"evaluations": self.evaluations, "states": self.rule_states}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Stand as an earlier attempt did."""
        self.evaluations = snapshot["evaluations"]
        self.rule_states = {name: restored(state) for name, state in snapshot["states"].items()}

    @property
    def is_training(self) -> bool:
        return self.phase in (STARTING, TRAINING)

    @property
    def trained_seconds(self) -> float:
        """For how long the run was trained, over all attempts, pauses included."""
        return self.earlier_seconds + (
            0.0 if self.started_at is None else max(0.0, self.time - self.started_at)
        )

    def handle(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        """The rules of ``matching_rules`` that act at ``event``."""
        handler = getattr(self, f"_on_{event.kind}", None)
        if self.is_training:
            self.time, self.step = event.time, event.step
        if handler is not None:
            yield from handler(event, matching_rules)

    def _on_run_start(self, event: Event, _matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        data = event.data or {}
        self.name, self.project = str(data.get("name") or ""), str(data.get("project") or "")
        self.source = str(data.get("source") or TRAINER)
        wait_seconds = data.get("wait_for_stopper")
        self.wait_seconds = float(wait_seconds) if isinstance(wait_seconds, (int, float)) else 0.0
        if self.source == LOOP:
            self._start_training(event)
            self.phase = TRAINING
        yield from ()

    def _on_train_begin(self, event: Event, _matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        self._start_training(event)
        yield from ()

    def _on_epoch_begin(self, _event: Event, _matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        self.phase = TRAINING if self.is_training else self.phase
        yield from ()

    def _on_step_end(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        if self.phase == NOT_STARTED:  # the journal does not reach back to its beginning
            self._start_training(event)
        if not self.is_training:
            return
        self.phase = TRAINING
        yield from self._check_step(event, matching_rules)

    def _on_log(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        values = self._values(event, "logs", of_evaluations=False)
        if not self.is_training or not values.keys() - {"epoch"}:
            return
        self.logs += 1
        learning_rate = values.get("learning_rate")
        self.learning_rate = self.learning_rate if learning_rate is None else learning_rate
        yield from self._check_values(
            "log", Observation(values, event.step, event.time), event, matching_rules
        )

    def _on_evaluate(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        if not self.is_training:
            return
        self.evaluations += 1
        self.last_evaluation_step = event.step
        values = self._values(event, "metrics", of_evaluations=True)
        observation = Observation(
            values, event.step, event.time, counts_for_best=self.phase == TRAINING
        )
        yield from self._check_values("evaluate", observation, event, matching_rules)

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

    def _values(self, event: Event, name: str, *, of_evaluations: bool) -> dict[str, float]:
        """The numbers to look at; a Trainer logs what it evaluated right before it says so."""
        values = _numeric_values((event.data or {}).get(name))
        if self.source == LOOP:
            return values
        return {n: v for n, v in values.items() if n.startswith(EVAL_PREFIX) == of_evaluations}

    def _check_step(self, event: Event, matching_rules: Sequence[Rule]) -> Iterator[Trigger]:
        """What is to be looked at however little comes: budgets, and whether metrics do."""
        observation = Observation(
            {SECONDS: self.trained_seconds, STEPS: event.step}, event.step, event.time
        )
        for rule in matching_rules:
            if rule.condition in _BUDGET_CONDITIONS:
                yield from self._apply_rule(rule, observation, event)
            elif rule.monitor is not None:
                yield from self._check_missing_metric(rule, event, has_ended=False)

    def _check_values(
        self, kind: str, observation: Observation, event: Event, matching_rules: Sequence[Rule]
    ) -> Iterator[Trigger]:
        known = self.names[kind]
        known += [name for name in observation.values if name not in known][
            : _MAX_NAMES - len(known)
        ]
        for rule in matching_rules:
            is_present = rule.monitor is None or rule.monitor in observation.values
            if rule.condition not in _BUDGET_CONDITIONS and is_present:
                if rule.monitor is not None:
                    self._state(rule)["came"] = True
                yield from self._apply_rule(rule, observation, event)
        if self.source == LOOP:  # it need not say when a step ends
            yield from self._check_step(event, matching_rules)

    def _apply_rule(self, rule: Rule, observation: Observation, event: Event) -> Iterator[Trigger]:
        start = rule.start_after
        if 0 < start.step >= observation.step or 0 < start.evaluations >= self.evaluations:
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
        """Say once that the metric never came, when it should have."""
        state = self._state(rule)
        if state.get("came") or state.get("missed"):
            return
        if rule.monitors_evaluations:
            names, by = self.names["evaluate"], "evaluations"
            is_due = (
                self.last_evaluation_step is not None and event.step > self.last_evaluation_step
            )
        else:
            names, by = self.names["log"], "logs"
            is_due = self.logs >= _LOGS_UNTIL_MISSING
        if self.source == LOOP:  # it may say any metric by either
            names, by = [*self.names["log"], *self.names["evaluate"]], "logs or evaluations"
        if is_due or has_ended:
            state["missed"] = True
            what = f"there are {', '.join(names)}" if names else "nothing came at all"
            reason = f"{rule.monitor} did not come with {by}, so the rule cannot hold: {what}"
            yield self._trigger(rule, event, rules.ALERT, reason, names=tuple(names))

    def _trigger(self, rule: Rule, event: Event, action: str, reason: str, **more: Any) -> Trigger:
        stream = Stream(self.run, "rank0", self.attempt)
        return Trigger(rule, stream, event.seq, event.step, event.time, action, reason, **more)

    def _state(self, rule: Rule) -> RuleState:
        return self.rule_states.setdefault(rule.name, {})


def _numeric_values(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(name, str)
        and (isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)))
    }
