"""The attempts of a run in the order in which they followed one another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Begun(Protocol):
    """What an attempt says of its place; ``started_at`` by the clock of its own machine."""

    @property
    def attempt(self) -> str: ...

    @property
    def started_at(self) -> float: ...

    @property
    def resumed_attempt(self) -> str | None: ...


A = TypeVar("A", bound=Begun)


def in_order(attempts: Iterable[A]) -> list[A]:
    """By the time they started, but none before the one from whose checkpoint it went on: clocks
    of two machines may differ, and what was recorded last may have been shipped late."""
    by_name = {attempt.attempt: attempt for attempt in attempts}

    def place(attempt: A) -> tuple[float, int, float, str]:
        line = [attempt]
        while (before := by_name.get(line[-1].resumed_attempt or "")) and before not in line:
            line.append(before)
        # As late as the latest it descends from; among those as late, ancestors first.
        latest = max(one.started_at for one in line)
        behind = next(n for n, one in enumerate(line) if one.started_at == latest)
        return latest, behind, attempt.started_at, attempt.attempt

    return sorted(by_name.values(), key=place)
