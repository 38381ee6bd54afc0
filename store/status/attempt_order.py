"""Puts the attempts of a run in order."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from math import inf
from typing import Protocol, TypeVar


class AttemptStart(Protocol):
    """What decides the place of an attempt; ``started_at`` is by the clock of its own machine."""

    @property
    def attempt(self) -> str: ...

    @property
    def started_at(self) -> float: ...

    @property
    def resumed_attempt(self) -> str | None: ...


A = TypeVar("A", bound=AttemptStart)


def order_attempts(attempts: Iterable[A]) -> list[A]:
    """Sort by start time, but no attempt before the one from whose checkpoint it resumed.

    The clocks of two machines may differ, and the order of recording is that of shipping.
    """
    by_name = {attempt.attempt: attempt for attempt in attempts}
    # Each attempt is as late as its latest ancestor; of equals, ancestors come first.
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
    """The attempt and its ancestors, without those in ``known``."""
    chain: dict[str, A] = {}
    current: A | None = attempt
    while current is not None and current.attempt not in known:
        if current.attempt in chain:
            # A circle is invalid: go round once more, so that each attempt has met all others.
            names = list(chain)
            return [
                *chain.values(),
                *(chain[name] for name in names[names.index(current.attempt) :]),
            ]
        chain[current.attempt] = current
        current = by_name.get(current.resumed_attempt or "")
    return list(chain.values())
