"""Reads the facts of an optimizer and its scheduler. No tensor is read."""

from __future__ import annotations

from typing import Any

_MOST_GROUPS = 64
_SETTINGS = (bool, int, float, str, tuple, type(None))


def optimizer_facts(optimizer: Any, scheduler: Any) -> dict[str, Any] | None:
    """Classes and the settings of each parameter group; None without an optimizer."""
    if optimizer is None:
        return None
    # Accelerate's wrappers hold the script's own ones.
    wrapped, scheduled = (
        getattr(optimizer, "optimizer", optimizer),
        getattr(scheduler, "scheduler", scheduler),
    )
    return {
        "class": type(wrapped).__name__,
        "scheduler_class": None if scheduled is None else type(scheduled).__name__,
        "groups": [
            {
                name: value
                for name, value in group.items()
                if name != "params" and isinstance(value, _SETTINGS)
            }
            for group in optimizer.param_groups[:_MOST_GROUPS]
        ],
    }


def learning_rates(optimizer: Any, key: str = "lr") -> list[float | None]:
    """The rate of each parameter group, None for one that is not in host memory; 64 at most."""
    try:
        groups = optimizer.param_groups
        return [
            rate if isinstance(rate := group[key], float) else None
            for group in (groups if len(groups) <= _MOST_GROUPS else groups[:_MOST_GROUPS])
        ]
    except Exception:  # noqa: BLE001 - no optimizer, or one of another kind
        return []


def have_own_rates(optimizer: Any) -> bool:
    """Whether parameter groups differ in their rates, or will after the warm-up."""
    return any(len(set(learning_rates(optimizer, key))) > 1 for key in ("lr", "initial_lr"))
