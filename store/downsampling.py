"""Downsamples long curves: no spike is lost, and no point moves while others are appended.

A series is cut into blocks by ordinal: 64 points, 8 times 64, 8 times that, and so on. Of each
complete block these points are selected: first, last, lowest, highest, and the first that is not
finite. The selection of a larger block is among those of its parts, so each level is made of the
one below, and a chart reads the level that fits. A complete block never changes, so a chart of a
growing series changes only at its end, or when its block size doubles.
"""

from __future__ import annotations

from collections.abc import Iterable
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


class Block:
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

    def selected(self) -> list[Point]:
        """The selection: at most five points, in order."""
        kept = {
            point[0]: point
            for point in (self.first, self.low, self.high, self.non_finite, self.last)
            if point is not None
        }
        return [kept[idx] for idx in sorted(kept)]


class OpenBlocks:
    """The incomplete blocks of a series, one for each level."""

    __slots__ = ("blocks",)

    def __init__(self) -> None:
        self.blocks: list[Block] = [Block()]

    def add(self, point: Point) -> list[tuple[int, Point]]:
        """Add the next point; returns the points that this selects, each with its level."""
        self.blocks[0].add(point)
        count = point[0] + 1
        found = [] if count % BLOCK else self._close(count)
        if point[4] is None:
            found.append((NON_FINITE_LEVEL, point))
        return found

    def restore(self, level: int, point: Point) -> None:
        """Add a recorded point of an open block; level 0 has the raw points."""
        self._block(level).add(point)

    def _close(self, count: int) -> list[tuple[int, Point]]:
        found: list[tuple[int, Point]] = []
        level = 0
        while count % block_size(level + 1) == 0:
            kept = self._block(level).selected()
            self.blocks[level] = Block()
            level += 1
            parent = self._block(level)
            for point in kept:
                found.append((level, point))
                parent.add(point)
        return found

    def _block(self, level: int) -> Block:
        while len(self.blocks) <= level:
            self.blocks.append(Block())
        return self.blocks[level]


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


def plan_reads(
    count: int, wanted: int, first: int = 0, end: int | None = None
) -> tuple[int, list[tuple[int, int, int]]]:
    """Plan how to show about ``wanted`` of the points ``first`` to before ``end`` of ``count``.

    ``end`` defaults to ``count``. Returns the block size, a power of two (1: all points as they
    are), and the ranges to read as (level, first ordinal, end ordinal) in order. They are made of
    complete blocks, so they may exceed ``first`` and ``end``.
    """
    end = count if end is None else end
    if end - first <= wanted:
        return 1, [(0, first, end)]
    blocks = max(1, wanted // MAX_SELECTED)
    size = 1
    while size * blocks < end - first:
        size *= 2
    start, end = first - first % size, min(count, -(-end // size) * size)
    level = 0
    while block_size(level + 1) <= size:
        level += 1
    reads = []
    while level >= 0:
        stop = end - end % block_size(level)
        if start < stop:
            reads.append((level, start, stop))
        start = max(start, stop)
        level -= 1
    return size, reads


def downsample(rows: Iterable[Point], size: int) -> list[Point]:
    """The selected points of each block of ``size`` points."""
    kept: list[Point] = []
    block, number = Block(), -1
    for point in rows:
        if point[0] // size != number:
            kept.extend(block.selected())
            block, number = Block(), point[0] // size
        block.add(point)
    kept.extend(block.selected())
    return kept
