"""Decides which steps of each attempt a run really went through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Protocol


class AttemptSteps(Protocol):
    """What decides; ``step`` is the highest step of the attempt."""

    @property
    def attempt(self) -> str: ...

    @property
    def step(self) -> int | None: ...

    @property
    def resumed_attempt(self) -> str | None: ...

    @property
    def resumed_step(self) -> int | None: ...


def last_counted_steps(
    attempts: Sequence[AttemptSteps], first_steps: Mapping[str, int]
) -> list[float]:
    """For each attempt, in their order, the last step that no later attempt repeats.

    Infinity if all its steps count, minus infinity if none does. The newest attempt counts. Of the
    one that it resumed, the steps up to the checkpoint count, and so on. ``first_steps`` has the
    first step of those that report no checkpoint: such an attempt repeats from there what the
    attempt before it did, unless it makes no step at all, as one that only evaluates.
    """
    places = {attempt.attempt: place for place, attempt in enumerate(attempts)}
    found = [-inf] * len(attempts)
    place, limit = len(attempts) - 1, inf
    while place >= 0:
        found[place] = limit
        attempt, place = attempts[place], place - 1
        if attempt.resumed_step is not None:
            limit = min(limit, attempt.resumed_step)
            if attempt.resumed_attempt is not None:
                # One of another run, or one that is later by a mistake, has no steps here.
                earlier = places.get(attempt.resumed_attempt, -1)
                place = earlier if earlier <= place else -1
        elif attempt.attempt in first_steps:
            first = first_steps[attempt.attempt]
            if (attempt.step or 0) > first:
                limit = min(limit, first - 1)
    return found
