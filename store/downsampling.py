"""Downsamples long curves: no spike is lost, and no point moves while others are appended.

A series is cut into blocks by ordinal: 64 points, 8 times 64, 8 times that, and so on. Of each
complete block these points are selected: first, last, lowest, highest, and the first that is not
finite. Beside them its number of values, their sum, and its ranges of steps and times are kept. So
means are those of all points, and a part of a curve is found whatever the order of its steps.
A larger block is made of its parts, and a chart reads the level that fits. A complete block never
changes, so a chart of a growing series changes only at its end, or when its block size doubles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isfinite, nan
from typing import NamedTuple

BLOCK = 64
"""Points in a block of level 1."""
FAN_OUT = 8
"""Blocks of one level in a block of the next."""
NON_FINITE_LEVEL = 0
"""The level in ``sketches`` for copies of all points that are not finite."""
MAX_SELECTED = 4
"""The most points selected of a block of finite values."""


class Point(NamedTuple):
    """A row of ``points``; ``value`` and ``flag`` are as from ``encode_float``."""

    idx: int
    step: int
    time: float
    epoch: float | None
    value: float | None
    flag: int


class Summary(NamedTuple):
    """Sums up the points of a block: a row of ``blocks``.

    ``n`` and ``sum`` are of the finite values; a ``sum`` beyond a double is None.
    """

    idx: int
    n: int
    sum: float | None
    step_min: int
    step_max: int
    time_min: float
    time_max: float


class Selection:
    """Selects among the points of one block, which are added in order."""

    __slots__ = ("first", "high", "last", "low", "non_finite")

    def __init__(self) -> None:
        self.first: Point | None = None
        self.last: Point | None = None
        self.low: Point | None = None
        self.high: Point | None = None
        self.non_finite: Point | None = None

    def add(self, point: Point) -> None:
        if self.first is None:
            self.first = point
        self.last = point
        value = point[4]
        if value is None:
            if self.non_finite is None:
                self.non_finite = point
            return
        if self.low is None or value < self.low[4]:  # type: ignore[operator]
            self.low = point
        if self.high is None or value > self.high[4]:  # type: ignore[operator]
            self.high = point

    def points(self) -> list[Point]:
        """The selection: at most five points, in order."""
        kept = {
            point[0]: point
            for point in (self.first, self.low, self.high, self.non_finite, self.last)
            if point is not None
        }
        return [kept[idx] for idx in sorted(kept)]


class Totals:
    """Adds up the points of one block."""

    __slots__ = ("n", "step_max", "step_min", "sum", "time_max", "time_min")

    def __init__(self) -> None:
        self.n = 0
        self.sum = 0.0
        self.step_min: float = inf
        self.step_max: float = -inf
        self.time_min = inf
        self.time_max = -inf

    def add(self, point: Point) -> None:
        _, step, time, _, value, _ = point
        if value is not None:
            self.n += 1
            self.sum += value
        if step < self.step_min:
            self.step_min = step
        if step > self.step_max:
            self.step_max = step
        if time < self.time_min:
            self.time_min = time
        if time > self.time_max:
            self.time_max = time

    def merge(self, part: Summary) -> None:
        self.n += part.n
        self.sum += nan if part.sum is None else part.sum
        self.step_min = min(self.step_min, part.step_min)
        self.step_max = max(self.step_max, part.step_max)
        self.time_min = min(self.time_min, part.time_min)
        self.time_max = max(self.time_max, part.time_max)

    def summary(self, idx: int) -> Summary:
        return Summary(
            idx,
            self.n,
            self.sum if isfinite(self.sum) else None,
            int(self.step_min),
            int(self.step_max),
            self.time_min,
            self.time_max,
        )


class Rows(NamedTuple):
    """What a point adds to ``sketches`` and ``blocks``, each with its level."""

    selected: list[tuple[int, Point]]
    summaries: list[tuple[int, Summary]]


class OpenBlocks:
    """The incomplete blocks of a series, one for each level."""

    __slots__ = ("selections", "totals")

    def __init__(self) -> None:
        self.selections: list[Selection] = [Selection()]
        self.totals: list[Totals] = [Totals()]

    def add(self, point: Point) -> Rows | None:
        """Add the next point; returns the rows that this completes."""
        self.selections[0].add(point)
        self.totals[0].add(point)
        count = point[0] + 1
        if count % BLOCK and point[4] is not None:
            return None
        rows = Rows([], [])
        if not count % BLOCK:
            self._close(count, rows)
        if point[4] is None:
            rows.selected.append((NON_FINITE_LEVEL, point))
        return rows

    def restore(self, level: int, point: Point) -> None:
        """Add a recorded point of an open block; level 0 has the raw points."""
        self._grow(level)
        self.selections[level].add(point)
        if not level:
            self.totals[0].add(point)

    def restore_summary(self, level: int, part: Summary) -> None:
        """Add a recorded block of ``level`` to the open block that it is part of."""
        self._grow(level)
        self.totals[level].merge(part)

    def _close(self, count: int, rows: Rows) -> None:
        level = 0
        while count % block_size(level + 1) == 0:
            kept = self.selections[level].points()
            whole = self.totals[level].summary(count - block_size(level + 1))
            self.selections[level], self.totals[level] = Selection(), Totals()
            level += 1
            self._grow(level)
            rows.summaries.append((level, whole))
            self.totals[level].merge(whole)
            for point in kept:
                rows.selected.append((level, point))
                self.selections[level].add(point)

    def _grow(self, level: int) -> None:
        while len(self.selections) <= level:
            self.selections.append(Selection())
            self.totals.append(Totals())


def block_size(level: int) -> int:
    """Points in a block of ``level`` (1 is ``BLOCK``); 1 for level 0, the raw points."""
    return BLOCK * FAN_OUT ** (level - 1) if level else 1


def open_block_starts(count: int) -> list[tuple[int, int]]:
    """Where the open blocks of ``count`` points begin, as (level, first ordinal)."""
    found, level = [], 0
    while block_size(level) <= max(count, 1):
        found.append((level, count - count % block_size(level + 1)))
        level += 1
    return found


def chart_block_size(counts: Sequence[int], blocks: int) -> int:
    """The least power of two of which about ``blocks`` blocks hold pieces of ``counts`` points."""
    size = 1
    while sum(-(-count // size) for count in counts) > max(blocks, len(counts)):
        size *= 2
    return size


def cover(first: int, end: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of stored blocks of at most ``size`` points that make up ``first`` to before ``end``.

    Each is (level, first ordinal, end ordinal). ``end`` is at most the number of points.
    """
    top = 0
    while block_size(top + 1) <= size:
        top += 1
    while first < end:
        level = top
        while first % block_size(level) or first + block_size(level) > end:
            level -= 1
        whole = block_size(level)
        stop = end - (end - first) % whole
        if level < top:
            larger = block_size(level + 1)
            stop = min(stop, first - first % larger + larger)
        yield level, first, stop
        first = stop
