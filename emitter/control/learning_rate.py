"""Changes the learning rate of a running training and scales the rest of its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

# Each of their rates is a multiple of the base rates or of the rate before, so scaling those scales
# the rest of the schedule. A cosine with a minimum rate or a sequence of schedules is different.
_SCALABLE = frozenset(
    {
        "LambdaLR",  # most schedules of transformers
        "StepLR",
        "MultiStepLR",
        "ExponentialLR",
        "MultiplicativeLR",
        "ConstantLR",
        "LinearLR",
        "PolynomialLR",
    }
)


class CannotChangeRate(Exception):
    """The learning rate cannot be changed, for the reason given."""


def prepare(optimizer: Any, scheduler: Any, rate: float) -> Callable[[], float]:
    """A function that sets the first parameter group to ``rate`` and returns its rate before.

    It scales the other groups and the rest of the schedule by the same factor. Optimizer and
    scheduler keep the change in checkpoints.

    Raises:
        CannotChangeRate: the schedule or the optimizer does not allow it.
    """
    groups, inner = _groups(optimizer), _unwrap_scheduler(scheduler)
    before = float(groups[0]["lr"])
    if not (math.isfinite(before) and before > 0):
        raise CannotChangeRate(
            f"the schedule is at a learning rate of {before:g}, which has no scale"
        )
    factor = rate / before
    if not 0 < factor < math.inf:
        raise CannotChangeRate(f"{rate:g} cannot be reached from a rate of {before:g}")
    bases = [] if inner is None else [base * factor for base in inner.base_lrs]

    def change() -> float:
        scaled: set[int] = set()  # tensors that several groups may share
        for group in groups:
            for key in ("lr", "initial_lr"):
                if key in group and id(group[key]) not in scaled:
                    _scale(group, key, factor, scaled)
        if inner is not None:
            inner.base_lrs = bases
            inner._last_lr = [float(group["lr"]) for group in groups]
        return before

    return change


def _groups(optimizer: Any) -> Any:
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not groups or "lr" not in groups[0]:
        raise CannotChangeRate(f"{type(optimizer).__name__} has no parameter groups with a rate")
    return groups


def _unwrap_scheduler(scheduler: Any) -> Any:
    """The scheduler inside accelerate's wrapper."""
    inner = getattr(scheduler, "scheduler", scheduler)
    if inner is None:
        return None
    name = type(inner).__name__
    if name not in _SCALABLE or not isinstance(getattr(inner, "base_lrs", None), list):
        raise CannotChangeRate(f"the schedule {name} is not known to keep a changed learning rate")
    return inner


def _scale(group: Any, key: str, factor: float, scaled: set[int]) -> None:
    value = group[key]
    if hasattr(value, "mul_"):
        value.mul_(factor)  # a tensor, kept for captured graphs
        scaled.add(id(value))
    else:
        group[key] = value * factor
