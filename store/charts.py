"""Reading a curve, whole or made short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select

from lineside.bus.errors import UsageError
from lineside.store.records import Points
from lineside.store.schema import points, sketches
from lineside.store.sketch import Point, plan, thin
from lineside.store.values import FINITE, FLAGS

_RAW = (points.c.idx, points.c.step, points.c.time, points.c.epoch, points.c.value, points.c.flag)
_TOLD = tuple(sketches.c[column.name] for column in _RAW)


@dataclass(frozen=True, slots=True)
class Want:
    """What of a curve is asked for: about ``points`` of it (None: every one), by ``x`` (step or
    time), from ``start`` to ``end`` of that (None: from its beginning, to its end).

    Raises:
        UsageError: another ``x``, or no points at all.
    """

    points: int | None
    x: str
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if self.x not in ("step", "time"):
            raise UsageError(f"x={self.x!r} cannot be drawn: expected step or time")
        if self.points is not None and self.points < 1:
            raise UsageError(f"points={self.points}: expected 1 or more")


def read_points(
    connection: Connection,
    series_id: int,
    total: int,
    *,
    name: str,
    attempt: str | None,
    want: Want,
) -> Points:
    """The series, or the part of it that is wanted with its neighbours on both sides.

    All points that are not finite are there if they are at most as many as wanted, else the first
    of each block.
    """
    first, end = _span(connection, series_id, total, want)
    size, reads = plan(total, end - first if want.points is None else want.points, first, end)
    rows = (
        row
        for level, start, stop in reads
        for row in _read(connection, series_id, level, start, stop)
    )
    if size == 1:
        return as_columns(list(rows), name, attempt, total, want.x, downsampled=False)
    kept = thin(rows, size)
    odd = _odd(connection, series_id, first, end, want.points or 0)
    if odd:
        known = {point[0]: point for point in (*kept, *odd)}
        kept = [known[idx] for idx in sorted(known)]
    return as_columns(kept, name, attempt, total, want.x, downsampled=len(kept) < end - first)


def as_columns(
    rows: list[Point], name: str, attempt: str | None, total: int, x: str, *, downsampled: bool
) -> Points:
    """Points as columns, ``x`` being step or time."""
    step = [row[1] for row in rows]
    time = [row[2] for row in rows]
    return Points(
        name=name,
        attempt=attempt,
        x=[float(value) for value in (time if x == "time" else step)],
        y=[row[4] for row in rows],
        step=step,
        time=time,
        epoch=[row[3] for row in rows],
        flag=[FLAGS[row[5]] for row in rows],
        total=total,
        downsampled=downsampled,
    )


def _span(connection: Connection, series_id: int, total: int, want: Want) -> tuple[int, int]:
    """The ordinals, from and to before, of the part wanted and one neighbour on each side."""
    first, end = 0, total
    if want.start is not None:
        first = max(0, _first_at(connection, series_id, total, want.x, want.start, False) - 1)
    if want.end is not None:
        end = min(total, _first_at(connection, series_id, total, want.x, want.end, True) + 1)
    return first, max(first, end)


def _first_at(
    connection: Connection, series_id: int, total: int, x: str, value: float, beyond: bool
) -> int:
    """The first ordinal at or after ``value`` (``beyond``: after it); ``total`` if there is none.

    Steps and times of one stream ascend, so a bisection by the primary key finds it.
    """
    column = points.c.time if x == "time" else points.c.step
    low, high = 0, total
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(
            select(column).where(points.c.series_id == series_id, points.c.idx == middle)
        ).scalar_one()
        if found < value or (beyond and found == value):
            low = middle + 1
        else:
            high = middle
    return low


def _read(
    connection: Connection, series_id: int, level: int, first: int, end: int
) -> Iterator[Point]:
    query: Select[Any]
    if level:
        query = (
            select(*_TOLD)
            .where(sketches.c.series_id == series_id, sketches.c.level == level)
            .where(sketches.c.idx >= first, sketches.c.idx < end)
            .order_by(sketches.c.idx)
        )
    else:
        query = (
            select(*_RAW)
            .where(points.c.series_id == series_id)
            .where(points.c.idx >= first, points.c.idx < end)
            .order_by(points.c.idx)
        )
    for row in connection.execute(query):
        yield Point(*row)


def _odd(connection: Connection, series_id: int, first: int, end: int, limit: int) -> list[Point]:
    """Every point that is not finite, or none if there are more than ``limit``."""
    query = (
        select(*_RAW)
        .where(points.c.series_id == series_id, points.c.flag != FINITE)
        .where(points.c.idx >= first, points.c.idx < end)
        .order_by(points.c.idx)
        .limit(limit + 1)
    )
    found = [Point(*row) for row in connection.execute(query)]
    return found if len(found) <= limit else []
