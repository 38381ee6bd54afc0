"""Finds and reads the points of one series that lie in a region, in whatever order they came."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select

from lineside.store.database.tables import blocks, points, sketches
from lineside.store.downsampling import NON_FINITE_LEVEL, Point, Summary, block_size, cover

Range = tuple[int, int]
"""Ordinals: the first, and the one after the last."""
_FEW_RANGES, _RANGES_PER_QUERY = 32, 100


class Region(NamedTuple):
    """A range of steps and one of times, both with their ends."""

    step_min: float = -inf
    step_max: float = inf
    time_min: float = -inf
    time_max: float = inf

    def within(self, other: Region) -> Region:
        """The part of it that is also in ``other``."""
        return Region(
            max(self.step_min, other.step_min),
            min(self.step_max, other.step_max),
            max(self.time_min, other.time_min),
            min(self.time_max, other.time_max),
        )

    def has_all(self, block: Summary) -> bool:
        return (
            self.step_min <= block.step_min
            and block.step_max <= self.step_max
            and self.time_min <= block.time_min
            and block.time_max <= self.time_max
        )

    def has_none(self, block: Summary) -> bool:
        return (
            block.step_max < self.step_min
            or block.step_min > self.step_max
            or block.time_max < self.time_min
            or block.time_min > self.time_max
        )

    def conditions(self) -> list[ColumnElement[bool]]:
        """Conditions for rows of ``points``."""
        found = []
        for column, low, high in (
            (points.c.step, self.step_min, self.step_max),
            (points.c.time, self.time_min, self.time_max),
        ):
            if low > -inf:
                found.append(column >= low)
            if high < inf:
                found.append(column <= high)
        return found


EVERYWHERE = Region()


@dataclass
class Found:
    """Where a region's points are: all points of ``spans``, and the points ``edges``.

    ``spans`` consist of whole ``blocks``; those of ``EVERYWHERE`` are the whole series.
    """

    spans: list[Range]
    edges: list[Point] = field(default_factory=list)
    blocks: list[Summary] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(end - first for first, end in self.spans) + len(self.edges)


class Reading(NamedTuple):
    """Rows that together stand for all points of a region.

    ``raw`` are points themselves. ``selected`` and ``summaries`` stand for whole blocks.
    """

    raw: list[Point]
    selected: list[Point]
    summaries: list[Summary]


class SeriesReader:
    """Reads a series of ``n`` points. Blocks outside of a region are not read."""

    def __init__(self, connection: Connection, series_id: int, n: int) -> None:
        self._connection = connection
        self._id = series_id
        self._n = n

    def find(self, region: Region) -> Found:
        """Where the points in ``region`` are."""
        if region == EVERYWHERE:
            return Found([(0, self._n)])
        whole, partial = self._search(region)
        spans = _merge((idx, idx + block_size(level)) for level, (idx, *_) in whole)
        return Found(spans, self._raw(partial, region), [block for _, block in whole])

    def extreme(self, region: Region, axis: str, *, highest: bool) -> float | None:
        """The highest or lowest ``axis`` (step or time) of the points in ``region``."""
        whole, partial = self._search(region)
        pick, of_rows = (max, func.max) if highest else (min, func.min)
        name = f"{axis}_{'max' if highest else 'min'}"
        found = [getattr(block, name) for _, block in whole]
        for condition in _in_ranges(points, partial):
            query = select(of_rows(points.c[axis])).where(points.c.series_id == self._id)
            value = self._connection.execute(query.where(condition, *region.conditions())).scalar()
            if value is not None:
                found.append(value)
        return pick(found, default=None)

    def read(self, found: Found, size: int, *, select_points: bool = True) -> Reading:
        """Read the points found through stored blocks of at most ``size`` points."""
        ranges: dict[int, list[Range]] = defaultdict(list)
        for first, end in found.spans:
            for level, start, stop in cover(first, end, size):
                ranges[level].append((start, stop))
        raw = self._raw(ranges.pop(0, []), EVERYWHERE) + found.edges
        selected: list[Point] = []
        summaries: list[Summary] = []
        for level, parts in ranges.items():
            if select_points:
                selected += map(Point._make, self._rows(sketches, Point, parts, level))
            summaries += map(Summary._make, self._rows(blocks, Summary, parts, level))
        return Reading(sorted(raw), selected, summaries)

    def non_finite(self, found: Found, limit: int) -> list[Point]:
        """All points found that are not finite, or none if there are more than ``limit``."""
        kept = [point for point in found.edges if point.value is None]
        rows = self._rows(sketches, Point, found.spans, NON_FINITE_LEVEL, limit + 1)
        kept.extend(Point._make(row) for row in rows)
        return kept if len(kept) <= limit else []

    def _search(self, region: Region) -> tuple[list[tuple[int, Summary]], list[Range]]:
        """The blocks wholly in ``region``, each with its level, and ranges that are partly."""
        whole: list[tuple[int, Summary]] = []
        level = 0
        while block_size(level + 1) <= self._n:
            level += 1
        partial: list[Range] = [(0, self._n)]
        for at in range(level, 0, -1):
            size = block_size(at)
            complete = self._n - self._n % size
            below = [(max(first, complete), end) for first, end in partial if end > complete]
            for row in self._rows(blocks, Summary, partial, at):
                block = Summary._make(row)
                if region.has_all(block):
                    whole.append((at, block))
                elif not region.has_none(block):
                    below.append((block.idx, block.idx + size))
            partial = _merge(below)
        return whole, partial

    def _raw(self, ranges: Sequence[Range], region: Region) -> list[Point]:
        rows = self._rows(points, Point, ranges, None, None, region.conditions())
        return [Point._make(row) for row in rows]

    def _rows(
        self,
        table: Table,
        record: type[Point] | type[Summary],
        ranges: Sequence[Range],
        level: int | None,
        limit: int | None = None,
        conditions: Iterable[ColumnElement[bool]] = (),
    ) -> Iterator[Any]:
        columns = [table.c[name] for name in record._fields]
        for condition in _in_ranges(table, ranges):
            query = select(*columns).where(table.c.series_id == self._id, condition, *conditions)
            if level is not None:
                query = query.where(table.c.level == level)
            yield from self._connection.execute(query.order_by(table.c.idx).limit(limit)).all()


def _in_ranges(table: Table, ranges: Sequence[Range]) -> Iterator[ColumnElement[bool]]:
    """Conditions for rows in ``ranges``, which ascend; each is for some of them.

    SQLite finds a range in the primary key, but scans what is between those joined by OR. So a few
    ranges are read one by one, and of many those that are near each other together.
    """
    idx = table.c.idx
    together = 1 if len(ranges) <= _FEW_RANGES else _RANGES_PER_QUERY
    for start in range(0, len(ranges), together):
        some = ranges[start : start + together]
        one_of = or_(*(and_(idx >= first, idx < end) for first, end in some))
        yield and_(idx >= some[0][0], idx < some[-1][1], one_of)


def _merge(ranges: Iterable[Range]) -> list[Range]:
    """``ranges`` in order, adjacent ones joined."""
    merged: list[Range] = []
    for first, end in sorted(ranges):
        if merged and merged[-1][1] == first:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((first, end))
    return merged
