"""The attempts of a run in the order in which they followed one another."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from math import inf
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
    # Each is as late as the latest it descends from; among those as late, ancestors are first.
    places: dict[str, tuple[float, int]] = {}
    for attempt in by_name.values():
        for one in reversed(_line(attempt, by_name, places)):
            latest, behind = places.get(one.resumed_attempt or "", (-inf, 0))
            is_later = one.started_at >= latest
            places[one.attempt] = (one.started_at, 0) if is_later else (latest, behind + 1)
    return sorted(by_name.values(), key=lambda a: (*places[a.attempt], a.started_at, a.attempt))


def _line(attempt: A, by_name: Mapping[str, A], placed: Container[str]) -> list[A]:
    """The attempt and those before it that are not placed yet."""
    line: dict[str, A] = {}
    one: A | None = attempt
    while one is not None and one.attempt not in placed:
        if one.attempt in line:
            # A circle, which is nonsense: once more round, so that each one has met all others.
            names = list(line)
            return [*line.values(), *(line[name] for name in names[names.index(one.attempt) :])]
        line[one.attempt] = one
        one = by_name.get(one.resumed_attempt or "")
    return list(line.values())
