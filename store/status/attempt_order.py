"""The attempts of a run in the order in which they followed one another."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from math import inf
from typing import Protocol, TypeVar


class AttemptStart(Protocol):
    """What an attempt says of its place; ``started_at`` by the clock of its own machine."""

    @property
    def attempt(self) -> str: ...

    @property
    def started_at(self) -> float: ...

    @property
    def resumed_attempt(self) -> str | None: ...


A = TypeVar("A", bound=AttemptStart)


def in_order(attempts: Iterable[A]) -> list[A]:
    """By the time they started, but none before the one from whose checkpoint it went on: clocks
    of two machines may differ, and what was recorded last may have been shipped late."""
    by_name = {attempt.attempt: attempt for attempt in attempts}
    # Each is as late as the latest it descends from; among those as late, ancestors are first.
    sort_keys: dict[str, tuple[float, int]] = {}
    for attempt in by_name.values():
        for current in reversed(_ancestry(attempt, by_name, sort_keys)):
            latest, depth = sort_keys.get(current.resumed_attempt or "", (-inf, 0))
            is_later = current.started_at >= latest
            sort_keys[current.attempt] = (
                (current.started_at, 0) if is_later else (latest, depth + 1)
            )
    return sorted(by_name.values(), key=lambda a: (*sort_keys[a.attempt], a.started_at, a.attempt))


def _ancestry(attempt: A, by_name: Mapping[str, A], known: Container[str]) -> list[A]:
    """The attempt and those before it that are not placed yet."""
    chain: dict[str, A] = {}
    current: A | None = attempt
    while current is not None and current.attempt not in known:
        if current.attempt in chain:
            # A circle, which is nonsense: once more round, so that each one has met all others.
            names = list(chain)
            return [
                *chain.values(),
                *(chain[name] for name in names[names.index(current.attempt) :]),
            ]
        chain[current.attempt] = current
        current = by_name.get(current.resumed_attempt or "")
    return list(chain.values())
