"""Follows the loss of one attempt: its level, its best level, its noise and its spikes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from lineside.store.history.curves.new_points import NewPoint
from lineside.subscribers.watchdog.series import noise_of

WARM_UP_VALUES = 20
"""The first values of an attempt, which are no measure for the others."""
LEVEL_VALUES = 10
"""The level is the median of so many values: neither a spike nor noise moves it."""
NOISE_VALUES = 100
"""The noise is that of so many values before those of the level."""
RATE_VALUES = 40
"""A learning rate that rose within so many values explains a higher loss."""
_RATE_RISE = 1.2
_SPIKE_VALUES, _SPIKE_NOISE, _SPIKE_RANGE = 50, 8.0, 1.5
_ROUNDING = 1e-3  # Trainer logs four decimals: a smaller difference may be theirs
_CALM_VALUES = 3  # values after which a spike is over
_LOWEST_SPIKE_VALUES = 20


@dataclass(frozen=True)
class Spike:
    """A value far above those before it, whose median is ``usual``."""

    step: int
    value: float
    usual: float


class LossTrack:
    """The loss of one attempt.

    A loss that is zero or negative, as some of reinforcement learning, is not judged: neither its
    level nor its noise is a measure of how well it is.
    """

    def __init__(self) -> None:
        self.count = 0
        self.initial: float | None = None
        """The level of the first values."""
        self.best: float | None = None
        """The lowest level after the warm-up."""
        self.best_step = 0
        self.level: float | None = None
        self.noise = 0.0
        self.spike: Spike | None = None
        """The newest spike, while it is not over."""
        self.is_positive = True
        self._values: deque[float] = deque(maxlen=NOISE_VALUES + LEVEL_VALUES)
        self._usual: deque[float] = deque(maxlen=_SPIKE_VALUES)
        self._rates: deque[float] = deque(maxlen=RATE_VALUES)
        self._calm = 0

    @property
    def has_enough_values(self) -> bool:
        """Whether there are values enough to judge by."""
        return self.is_positive and self.count >= WARM_UP_VALUES + LEVEL_VALUES

    @property
    def has_rate_risen(self) -> bool:
        """Whether the learning rate rose lately: in a warm-up, at a restart, or by a command."""
        return bool(self._rates) and self._rates[-1] > _RATE_RISE * min(self._rates)

    def add(self, losses: Iterable[NewPoint], rates: Iterable[NewPoint] = ()) -> None:
        """Add new values of the loss, and of the learning rate."""
        self._rates.extend(point.value for point in rates if math.isfinite(point.value))
        for point in losses:
            if math.isfinite(point.value):
                self._add(point)

    def _add(self, point: NewPoint) -> None:
        self.count += 1
        self.is_positive = self.is_positive and point.value > 0
        if not self.is_positive:
            self.spike = None
            return
        self._find_spike(point)
        self._values.append(point.value)
        values = list(self._values)
        self.level = median(values[-LEVEL_VALUES:])
        if self.count == LEVEL_VALUES:
            self.initial = self.level
        earlier = values[:-LEVEL_VALUES]
        if len(earlier) >= LEVEL_VALUES:
            self.noise = noise_of(earlier)
        if self.count >= WARM_UP_VALUES + LEVEL_VALUES and (
            self.best is None or self.level < self.best
        ):
            self.best, self.best_step = self.level, point.step

    def _find_spike(self, point: NewPoint) -> None:
        self._calm += 1
        if self._is_spike(point.value):
            self.spike, self._calm = Spike(point.step, point.value, median(self._usual)), 0
        elif self._calm >= _CALM_VALUES:
            self.spike = None
        self._usual.append(point.value)  # another value as high is then none

    def _is_spike(self, value: float) -> bool:
        if self.count <= WARM_UP_VALUES or len(self._usual) < _LOWEST_SPIKE_VALUES:
            return False
        # The noise of a loss is in proportion to it: logarithms make it even.
        logs = [math.log(one) for one in self._usual]
        distance = math.log(value) - median(logs)
        return (
            distance > _SPIKE_NOISE * noise_of(logs)
            and value > _SPIKE_RANGE * max(self._usual)
            and value > max(self._usual) + _ROUNDING
        )
