"""Decides when a rule acts: one state machine for each condition, its state in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lineside.bus.checkpoints.metric_direction import MAX
from lineside.bus.protocol.commands import EXPIRES_SECONDS
from lineside.bus.wording import agree
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.rules import Rule

RuleState = dict[str, Any]
"""The state of one rule for one run."""

REPEAT_SECONDS = EXPIRES_SECONDS
"""How long a rule that still holds is silent; its command has expired by then."""
SECONDS, STEPS = "seconds", "steps"
"""Names of the observed values that budgets limit."""


class Observation(NamedTuple):
    """Values of one event, at ``step`` and ``time`` (seconds since the epoch).

    ``counts_for_best`` is False for an evaluation on start, which a Trainer does not compare with
    its best metric.
    """

    values: Mapping[str, float]
    step: int
    time: float
    counts_for_best: bool = True


def trigger_reason(rule: Rule, state: RuleState, observation: Observation) -> str | None:
    """The reason why ``rule`` acts now, as a sentence; None if it does not. Changes ``state``.

    A rule that still holds acts again after ``REPEAT_SECONDS``. With a cool-down it skips that many
    values after it acted, and may then act again.
    """
    reason = _CONDITIONS[rule.condition](rule, state, observation)
    if state.get("cool_down_left", 0) > 0:
        state["cool_down_left"] -= 1
        state["count"] = 0
        return None
    if reason is None:
        state.pop("silent_until", None)
        return None
    if observation.time < state.get("silent_until", -math.inf):
        return None
    state["cool_down_left"] = rule.cool_down
    if rule.condition == rules.PATIENCE and rule.action == rules.SET_LR:
        state["count"] = 0  # the new rate has the same patience
    elif not rule.cool_down:
        state["silent_until"] = observation.time + REPEAT_SECONDS
    return reason


def restored(state: RuleState) -> RuleState:
    """``state`` for a training that resumes there: no command of the rule is pending."""
    return {name: value for name, value in state.items() if name != "silent_until"}


def _patience(rule: Rule, state: RuleState, observation: Observation) -> str | None:
    """Mirrors the EarlyStoppingCallback of transformers, and the Trainer's best metric.

    Any better value becomes the best one; ``min_delta`` counts for the patience only.
    """
    value = observation.values[rule.monitor or ""]
    best, best_step = state.get("best"), state.get("best_step")
    reference = best if rule.baseline is None else rule.baseline
    if reference is None or (
        rule.is_better(value, reference) and abs(value - reference) > rule.min_delta
    ):
        state["count"] = 0
    else:
        state["count"] = state.get("count", 0) + 1
    if observation.counts_for_best:
        worst = -math.inf if rule.mode == MAX else math.inf
        state["best"] = worst if best is None else best
        if rule.is_better(value, state["best"]):
            state["best"], state["best_step"] = value, observation.step
    if state["count"] < (rule.patience or 1):
        return None
    times = f"{state['count']} times in a row" if state["count"] > 1 else "once"
    by = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    if rule.baseline is not None:
        return f"{rule.monitor} did not beat {rule.baseline:g}{by} {times}, and is {value:.6g}"
    where = "" if best_step is None else f" of step {best_step}"
    return (
        f"{rule.monitor} was no better than {reference:.6g}{where}{by} {times}, and is {value:.6g}"
    )


def _threshold(rule: Rule, _state: RuleState, observation: Observation) -> str | None:
    value, bound = observation.values[rule.monitor or ""], rule.threshold or 0.0
    if not (value == bound or rule.is_better(value, bound)):
        return None
    return f"{rule.monitor} has reached {bound:g}, and is {value:.6g}"


def _divergence(rule: Rule, state: RuleState, observation: Observation) -> str | None:
    value, best = observation.values[rule.monitor or ""], state.get("best")
    if math.isnan(value):
        return f"{rule.monitor} is nan"
    if best is None or rule.is_better(value, best):
        state["best"] = value
        return None
    if abs(value - best) <= (rule.divergence or 0.0):
        return None
    return f"{rule.monitor} was {best:.6g} and is {value:.6g}"


def _not_finite(rule: Rule, state: RuleState, observation: Observation) -> str | None:
    counts = state.setdefault("not_finite", {})
    for name, value in observation.values.items():
        if rule.monitor not in (None, name):
            continue
        if math.isfinite(value):
            counts.pop(name, None)
        else:
            counts[name] = counts.get(name, 0) + 1
    failing = [name for name, times in counts.items() if times >= (rule.not_finite or 1)]
    if not failing:
        return None
    descriptions = [
        f"{name} is {observation.values[name]}" if name in observation.values else name
        for name in failing
    ]
    return f"not finite: {', '.join(descriptions)}"


def _max_seconds(rule: Rule, _state: RuleState, observation: Observation) -> str | None:
    seconds = observation.values[SECONDS]
    if seconds < (rule.max_seconds or 0.0):
        return None
    allowed = rule.max_seconds or 0.0
    return f"it has trained for {seconds:.0f} s, and {allowed:g} {agree(allowed, 'is')} allowed"


def _max_steps(rule: Rule, _state: RuleState, observation: Observation) -> str | None:
    if observation.step < (rule.max_steps or 0):
        return None
    allowed = rule.max_steps or 0
    return f"it is at step {observation.step}, and {allowed} {agree(allowed, 'is')} allowed"


_CONDITIONS: Mapping[str, Callable[[Rule, RuleState, Observation], str | None]] = {
    rules.PATIENCE: _patience,
    rules.THRESHOLD: _threshold,
    rules.DIVERGENCE: _divergence,
    rules.NOT_FINITE: _not_finite,
    rules.MAX_SECONDS: _max_seconds,
    rules.MAX_STEPS: _max_steps,
}
