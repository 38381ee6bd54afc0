"""The course of one attempt of a run, as far as rules care: what came, and how each rule stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.rules import EVAL_PREFIX, Rule
from lineside.subscribers.stopper.verdicts import SECONDS, STEPS, Seen, State, judge, resumed

TRAINER, LOOP = "trainer", "loop"
BEFORE, STARTING, TRAINING, OVER = "before", "starting", "training", "over"
_LOGS = 3  # after so many without a metric that is logged, it is missed
_NAMES = 20  # names told of what did come instead
_BUDGETS = (rules.MAX_SECONDS, rules.MAX_STEPS)


@dataclass(frozen=True)
class Firing:
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
    why: str
    args: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()

    @property
    def id(self) -> str:
        said = f"{self.rule!r} {self.action} {self.stream} {self.seq}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass
class Course:
    """Everything known of one attempt. ``Course(**course.data())`` is the same again.

    ``states`` are the rules' own, by name. ``spent`` is for how many seconds the run was trained
    before this attempt, ``waits`` for how many it waits for a verdict on an evaluation.
    """

    run: str
    attempt: str
    name: str = ""
    project: str = ""
    source: str = TRAINER
    waits: float = 0.0
    phase: str = BEFORE
    next_seq: int = 0
    step: int = 0
    began: float | None = None
    time: float = 0.0
    spent: float = 0.0
    rate: float | None = None
    evaluations: int = 0
    evaluated: int | None = None  # the step of the newest one
    logs: int = 0
    names: dict[str, list[str]] = field(default_factory=lambda: {"evaluate": [], "log": []})
    states: dict[str, State] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    def standing(self) -> dict[str, Any]:
        """What a training that goes on from here takes with it."""
        return {"evaluations": self.evaluations, "states": self.states}

    def resume(self, standing: Mapping[str, Any]) -> None:
        """Stand as an earlier attempt did."""
        self.evaluations = standing["evaluations"]
        self.states = {name: resumed(state) for name, state in standing["states"].items()}

    @property
    def is_training(self) -> bool:
        return self.phase in (STARTING, TRAINING)

    @property
    def seconds(self) -> float:
        """For how long the run was trained, over all attempts, pauses included."""
        return self.spent + (0.0 if self.began is None else max(0.0, self.time - self.began))

    def take(self, event: Event, given: Sequence[Rule]) -> Iterator[Firing]:
        """The rules of ``given`` that act at ``event``."""
        handler = getattr(self, f"_on_{event.kind}", None)
        if self.is_training:
            self.time, self.step = event.time, event.step
        if handler is not None:
            yield from handler(event, given)

    def _on_run_start(self, event: Event, _given: Sequence[Rule]) -> Iterator[Firing]:
        data = event.data or {}
        self.name, self.project = str(data.get("name") or ""), str(data.get("project") or "")
        self.source = str(data.get("source") or TRAINER)
        waits = data.get("wait_for_verdict")
        self.waits = float(waits) if isinstance(waits, (int, float)) else 0.0
        if self.source == LOOP:
            self._begin(event)
            self.phase = TRAINING
        yield from ()

    def _on_train_begin(self, event: Event, _given: Sequence[Rule]) -> Iterator[Firing]:
        self._begin(event)
        yield from ()

    def _on_epoch_begin(self, _event: Event, _given: Sequence[Rule]) -> Iterator[Firing]:
        self.phase = TRAINING if self.is_training else self.phase
        yield from ()

    def _on_step_end(self, event: Event, given: Sequence[Rule]) -> Iterator[Firing]:
        if self.phase == BEFORE:  # the journal does not reach back to its beginning
            self._begin(event)
        if not self.is_training:
            return
        self.phase = TRAINING
        yield from self._look(event, given)

    def _on_log(self, event: Event, given: Sequence[Rule]) -> Iterator[Firing]:
        values = self._values(event, "logs", of_evaluations=False)
        if not self.is_training or not values.keys() - {"epoch"}:
            return
        self.logs += 1
        rate = values.get("learning_rate")
        self.rate = self.rate if rate is None else rate
        yield from self._compare("log", Seen(values, event.step, event.time), event, given)

    def _on_evaluate(self, event: Event, given: Sequence[Rule]) -> Iterator[Firing]:
        if not self.is_training:
            return
        self.evaluations += 1
        self.evaluated = event.step
        values = self._values(event, "metrics", of_evaluations=True)
        seen = Seen(values, event.step, event.time, leads=self.phase == TRAINING)
        yield from self._compare("evaluate", seen, event, given)

    def _on_train_end(self, event: Event, given: Sequence[Rule]) -> Iterator[Firing]:
        if self.is_training:
            for rule in given:
                if rule.monitor is not None:
                    yield from self._miss(rule, event, is_over=True)
        self.phase = OVER

    _on_train_error = _on_run_end = _on_train_end  # the script may go on, the training does not

    def _begin(self, event: Event) -> None:
        self.phase, self.began = STARTING, event.time
        self.time, self.step = event.time, event.step

    def _values(self, event: Event, name: str, *, of_evaluations: bool) -> dict[str, float]:
        """The numbers to look at; a Trainer logs what it evaluated right before it says so."""
        values = _numbers((event.data or {}).get(name))
        if self.source == LOOP:
            return values
        return {n: v for n, v in values.items() if n.startswith(EVAL_PREFIX) == of_evaluations}

    def _look(self, event: Event, given: Sequence[Rule]) -> Iterator[Firing]:
        """What is to be looked at however little comes: budgets, and whether metrics do."""
        seen = Seen({SECONDS: self.seconds, STEPS: event.step}, event.step, event.time)
        for rule in given:
            if rule.condition in _BUDGETS:
                yield from self._judge(rule, seen, event)
            elif rule.monitor is not None:
                yield from self._miss(rule, event, is_over=False)

    def _compare(
        self, kind: str, seen: Seen, event: Event, given: Sequence[Rule]
    ) -> Iterator[Firing]:
        known = self.names[kind]
        known += [name for name in seen.values if name not in known][: _NAMES - len(known)]
        for rule in given:
            is_there = rule.monitor is None or rule.monitor in seen.values
            if rule.condition not in _BUDGETS and is_there:
                if rule.monitor is not None:
                    self._state(rule)["came"] = True
                yield from self._judge(rule, seen, event)
        if self.source == LOOP:  # it need not say when a step ends
            yield from self._look(event, given)

    def _judge(self, rule: Rule, seen: Seen, event: Event) -> Iterator[Firing]:
        start = rule.start_after
        if 0 < start.step >= seen.step or 0 < start.evaluations >= self.evaluations:
            return
        why = judge(rule, self._state(rule), seen)
        if why is None:
            return
        action, args = rule.action, {}
        if self.source == LOOP and action != rules.ALERT:
            action, why = rules.ALERT, f"{why}; a loop takes no commands"
        elif action == rules.SET_LR:
            if self.rate is None:
                action, why = rules.ALERT, f"{why}; no learning_rate was logged to be lowered"
            else:
                lowered = max(self.rate * (rule.factor or 1.0), rule.min_lr)
                if not 0 < lowered < self.rate:
                    return
                self.rate, args = lowered, {"lr": lowered}
        elif action in (rules.STOP, rules.SAVE_AND_STOP):
            args = {"save": action == rules.SAVE_AND_STOP}
        yield self._firing(rule, event, action, why, args=args)

    def _miss(self, rule: Rule, event: Event, *, is_over: bool) -> Iterator[Firing]:
        """Say once that the metric never came, when it should have."""
        state = self._state(rule)
        if state.get("came") or state.get("missed"):
            return
        if rule.is_of_evaluations:
            names, by = self.names["evaluate"], "evaluations"
            is_due = self.evaluated is not None and event.step > self.evaluated
        else:
            names, by = self.names["log"], "logs"
            is_due = self.logs >= _LOGS
        if self.source == LOOP:  # it may say any metric by either
            names, by = [*self.names["log"], *self.names["evaluate"]], "logs or evaluations"
        if is_due or is_over:
            state["missed"] = True
            what = f"there are {', '.join(names)}" if names else "nothing came at all"
            why = f"{rule.monitor} did not come with {by}, so the rule cannot hold: {what}"
            yield self._firing(rule, event, rules.ALERT, why, names=tuple(names))

    def _firing(self, rule: Rule, event: Event, action: str, why: str, **more: Any) -> Firing:
        stream = Stream(self.run, "rank0", self.attempt)
        return Firing(rule, stream, event.seq, event.step, event.time, action, why, **more)

    def _state(self, rule: Rule) -> State:
        return self.states.setdefault(rule.name, {})


def _numbers(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(name, str)
        and (isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)))
    }
