"""What the watchdog keeps of a run's curves: short windows, and robust figures of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from lineside.store.history.curves.new_points import NewPoint

SIGMA_OF_MAD = 1.4826
"""The standard deviation of normal values, as a multiple of their median absolute deviation."""
BUCKET_SECONDS = 60.0


def noise_of(values: Sequence[float]) -> float:
    """The standard deviation of ``values``, by a measure that outliers do not move."""
    middle = median(values)
    return SIGMA_OF_MAD * median(abs(value - middle) for value in values)


class Window:
    """The newest points of a curve, at most ``size``."""

    def __init__(self, size: int) -> None:
        self.points: deque[NewPoint] = deque(maxlen=size)

    def add(self, points: Iterable[NewPoint]) -> None:
        """Add points that come after the others; earlier ones are ignored."""
        for point in points:
            if not self.points or point.time >= self.points[-1].time:
                self.points.append(point)

    @property
    def last(self) -> float | None:
        """The newest value; None without one."""
        return self.points[-1].value if self.points else None

    def since(self, time: float) -> list[float]:
        """The finite values from ``time`` on."""
        return [
            point.value
            for point in self.points
            if point.time >= time and math.isfinite(point.value)
        ]


class NonFinite:
    """How many values in a row are not finite, up to the newest one."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.first_step = 0
        self.value = math.nan

    def add(self, points: Iterable[NewPoint]) -> None:
        """Add points in their order."""
        for point in points:
            if math.isfinite(point.value):
                self.in_a_row = 0
            else:
                if not self.in_a_row:
                    self.first_step = point.step
                self.in_a_row += 1
                self.value = point.value


class Minute(NamedTuple):
    """The steps of one minute: their number, and the medians of their seconds.

    ``is_interrupted``: after many of them came an evaluation or a save, which is in ``wait`` too.
    """

    steps: int
    compute: float
    wait: float
    is_interrupted: bool

    @property
    def step(self) -> float:
        return self.compute + self.wait


class StepTimes:
    """The time of a step by minutes, as medians: a pause or an evaluation does not move them.

    ``wait`` is the time between two steps. The first minute of an attempt, in which a model may be
    compiled, does not count.
    """

    MINUTES = 120
    _INTERRUPTED_SHARE = 0.25

    def __init__(self) -> None:
        self.minutes: deque[Minute] = deque(maxlen=self.MINUTES)
        self._open: dict[float, tuple[list[float], list[float]]] = {}
        self._interruptions: dict[float, int] = {}
        self._is_first = True

    def add(
        self, compute: Iterable[NewPoint], wait: Iterable[NewPoint], interruptions: int = 0
    ) -> None:
        """Add new steps, and how many evaluations and saves there were among them."""
        for place, points in enumerate((compute, wait)):
            for point in points:
                if math.isfinite(point.value):
                    minute = point.time // BUCKET_SECONDS
                    self._open.setdefault(minute, ([], []))[place].append(point.value)
        newest = max(self._open, default=0.0)
        self._interruptions[newest] = self._interruptions.get(newest, 0) + interruptions
        # The newest but one may get the wait of its last step yet.
        for minute in sorted(self._open)[:-2]:
            self._close(minute)

    def _close(self, minute: float) -> None:
        compute, wait = self._open.pop(minute)
        interruptions = self._interruptions.pop(minute, 0)
        if not compute or not wait:
            return
        is_interrupted = interruptions > self._INTERRUPTED_SHARE * len(compute)
        if not self._is_first:
            self.minutes.append(Minute(len(compute), median(compute), median(wait), is_interrupted))
        self._is_first = False
