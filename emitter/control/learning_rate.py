"""The learning rate of a training under way: changed so that the schedule goes on from there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

# Every rate they give is a multiple of the base rates, or of the rate before, so that all that is
# to come is scaled with these. A cosine with a lowest rate is not among them, nor a sequence.
_SCALABLE = frozenset(
    {
        "LambdaLR",  # all of transformers' own schedules but those named below
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
    """Why the learning rate stays as it is."""


def prepare(optimizer: Any, scheduler: Any, rate: float) -> Callable[[], float]:
    """What makes ``rate`` the learning rate of the first parameter group; gives the one before.

    The other groups and all that the schedule has yet to give are scaled alike. Optimizer and
    scheduler carry it into checkpoints.

    Raises:
        CannotChange: it cannot be done.
    """
    groups, inner = _groups(optimizer), _unwrap_scheduler(scheduler)
    before = float(groups[0]["lr"])
    if not (math.isfinite(before) and before > 0):
        raise CannotChangeRate(
            f"the schedule is at a learning rate of {before:g}, which has no scale"
        )
    factor = rate / before
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
    """The scheduler itself, without what accelerate wraps around it."""
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
