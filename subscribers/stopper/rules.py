"""A rule: the condition under which the stopper acts on a run, and the action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lineside.bus.checkpoints.metric_direction import AUTO, MAX, direction
from lineside.bus.errors import UsageError
from lineside.bus.protocol.patterns import matches

PATIENCE, THRESHOLD, DIVERGENCE = "patience", "threshold", "divergence"
NOT_FINITE, MAX_SECONDS, MAX_STEPS = "not_finite", "max_seconds", "max_steps"
CONDITIONS = (PATIENCE, THRESHOLD, DIVERGENCE, NOT_FINITE, MAX_SECONDS, MAX_STEPS)
"""Condition fields; a rule has exactly one of them."""

STOP, SAVE_AND_STOP, EVALUATE, SET_LR, ALERT = (
    "stop",
    "save_and_stop",
    "evaluate",
    "set_lr",
    "alert",
)
ACTIONS = (STOP, SAVE_AND_STOP, EVALUATE, SET_LR, ALERT)

_COMPARISON_CONDITIONS = (PATIENCE, THRESHOLD, DIVERGENCE)  # these compare values of a metric
EVAL_PREFIX = "eval_"
"""The prefix of a Trainer's evaluation metrics."""

# The conditions with which each field has a meaning.
_CONDITIONS_BY_FIELD: Mapping[str, Sequence[str]] = {
    "monitor": (*_COMPARISON_CONDITIONS, NOT_FINITE),
    "mode": _COMPARISON_CONDITIONS,
    "min_delta": (PATIENCE,),
    "baseline": (PATIENCE,),
}
_SET_LR_FIELDS = ("factor", "min_lr")  # these have a meaning with set_lr only


class RuleError(UsageError):
    """A field of ``rule`` that is missing, unknown or invalid; ``fault`` is a sentence on it."""

    def __init__(self, rule: str, field: str, value: object, expected: str) -> None:
        problem = "is missing" if value is None else f"{value!r:.200} is invalid"
        self.rule = rule
        self.field = field
        self.value = value
        self.expected = expected
        self.fault = f"{field}: {problem}; expected {expected}"
        super().__init__(f"{rule}: {self.fault}")


class StartAfter(NamedTuple):
    """A rule holds only after this step, and after this many evaluations."""

    step: int = 0
    evaluations: int = 0


@dataclass(frozen=True)
class Rule:
    """One rule, as docs/reference/rules.md describes it; ``mode`` auto is resolved here.

    Raises:
        RuleError: a field is missing or invalid.
    """

    name: str
    monitor: str | None = None
    mode: str = AUTO
    patience: int | None = None
    min_delta: float = 0.0
    baseline: float | None = None
    threshold: float | None = None
    divergence: float | None = None
    not_finite: int | None = None
    max_seconds: float | None = None
    max_steps: int | None = None
    start_after: StartAfter = field(default_factory=StartAfter)
    action: str = SAVE_AND_STOP
    factor: float | None = None
    min_lr: float = 0.0
    cool_down: int = 0
    project: str = "*"
    run: str = "*"

    def __post_init__(self) -> None:
        _check(self)
        if self.mode == AUTO and self.condition in _COMPARISON_CONDITIONS:
            found = direction(self.monitor or "")
            if found is None:
                raise RuleError(
                    self.name, "mode", AUTO, f"min or max: {self.monitor!r} does not show which"
                )
            object.__setattr__(self, "mode", found)

    @property
    def condition(self) -> str:
        """The condition of the rule, one of ``CONDITIONS``."""
        return next(name for name in CONDITIONS if getattr(self, name) is not None)

    @property
    def monitors_evaluations(self) -> bool:
        """Whether evaluations carry its metric; other metrics are in logs."""
        return self.monitor is not None and self.monitor.startswith(EVAL_PREFIX)

    def is_better(self, value: float, other: float) -> bool:
        """Whether ``value`` is better than ``other``; False if one of them is NaN."""
        return value > other if self.mode == MAX else value < other

    def matches(self, run: str, name: str, project: str) -> bool:
        """Whether the rule applies to the run of this id, name and project."""
        is_run = matches(run, self.run) or matches(name, self.run)
        return is_run and matches(project, self.project)


def _check(rule: Rule) -> None:
    given = [name for name in CONDITIONS if getattr(rule, name) is not None]
    if len(given) != 1:
        raise RuleError(
            rule.name, "condition", " and ".join(given) or None, f"one of {', '.join(CONDITIONS)}"
        )
    condition = given[0]
    if condition in _COMPARISON_CONDITIONS and rule.monitor is None:
        raise RuleError(rule.name, "monitor", None, f"the name of a metric beside {condition}")
    if rule.factor is None and rule.action == SET_LR:
        raise RuleError(rule.name, "factor", None, "a number below 1 beside the action set_lr")
    for name, conditions in _CONDITIONS_BY_FIELD.items():
        if condition not in conditions:
            _check_unset(rule, name, condition)
    for name in _SET_LR_FIELDS:
        if rule.action != SET_LR:
            _check_unset(rule, name, rule.action)


def _check_unset(rule: Rule, name: str, used_with: str) -> None:
    value = getattr(rule, name)
    if value != Rule.__dataclass_fields__[name].default:
        raise RuleError(rule.name, name, value, f"none beside {used_with}, it does nothing")
