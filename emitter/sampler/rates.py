"""Turns counters that only rise into rates."""

from __future__ import annotations

from collections.abc import Mapping


def per_second(
    now: Mapping[str, float], before: Mapping[str, float], seconds: float
) -> dict[str, float]:
    """The rise of each counter of ``now`` since ``before``, by ``<name>_per_second``.

    A counter without an earlier value, or one that has fallen because it was reset, has no rate.
    """
    if seconds <= 0:
        return {}
    return {
        f"{name}_per_second": (value - before[name]) / seconds
        for name, value in now.items()
        if name in before and value >= before[name]
    }
