"""Reading curves: what there is of them, whole or made short, and row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select

from lineside.bus.errors import UsageError
from lineside.store.database.schema import METRIC, points, series, sketches, streams
from lineside.store.database.values import FLAGS, at, join
from lineside.store.history.records import Points, Series
from lineside.store.sketch import ODD, Point, plan, thin

_RAW = (points.c.idx, points.c.step, points.c.time, points.c.epoch, points.c.value, points.c.flag)
_TOLD = tuple(sketches.c[column.name] for column in _RAW)


class Place(NamedTuple):
    """Whose curves: a run's key, an attempt of it (None if it has none), a producer."""

    run_key: int
    attempt: str | None
    producer: str


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


def read_metrics(connection: Connection, place: Place) -> list[Series]:
    """The metrics there, by name."""
    rows = connection.execute(_series(place, METRIC).order_by(series.c.name))
    return [
        Series(
            name=row.name,
            attempt=row.attempt,
            producer=row.producer,
            count=row.n,
            last=join(row.last, row.last_flag),
            last_step=row.last_step,
            last_time=at(row.last_time),
            min=row.min,
            max=row.max,
        )
        for row in rows
    ]


def read_curve(connection: Connection, place: Place, kind: str, name: str, want: Want) -> Points:
    """The part of a curve that is wanted, with its neighbours on both sides.

    All points that are not finite are there if they are at most as many as wanted, else the first
    of each block. A curve that does not exist has no points.
    """
    row = connection.execute(_series(place, kind).where(series.c.name == name)).first()
    kept: list[Point] = []
    first = end = 0
    if row is not None:
        first, end = _span(connection, row.id, row.n, want)
        kept = _read_telling(connection, row.id, row.n, want, first, end)
    step, time = [point[1] for point in kept], [point[2] for point in kept]
    return Points(
        name=name,
        attempt=place.attempt,
        x=[float(value) for value in (time if want.x == "time" else step)],
        y=[point[4] for point in kept],
        step=step,
        time=time,
        epoch=[point[3] for point in kept],
        flag=[FLAGS[point[5]] for point in kept],
        total=0 if row is None else row.n,
        sum=0.0 if row is None else row.sum,
        downsampled=len(kept) < end - first,
    )


def _series(place: Place, kind: str) -> Select[Any]:
    return (
        select(series, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == series.c.stream_id)
        .where(streams.c.run_key == place.run_key, streams.c.attempt == place.attempt)
        .where(streams.c.producer == place.producer, series.c.kind == kind)
    )


def _read_telling(
    connection: Connection, series_id: int, total: int, want: Want, first: int, end: int
) -> list[Point]:
    size, reads = plan(total, want.points or end - first, first, end)
    rows = (point for part in reads for point in _read(connection, series_id, *part))
    if size == 1:
        return list(rows)
    kept = thin(rows, size)
    odd = _read_odd(connection, series_id, first, end, want.points or 0)
    known = {point[0]: point for point in (*kept, *odd)}
    return [known[idx] for idx in sorted(known)]


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
    table, columns = (sketches, _TOLD) if level else (points, _RAW)
    query: Select[Any] = (
        select(*columns)
        .where(table.c.series_id == series_id, table.c.idx >= first, table.c.idx < end)
        .order_by(table.c.idx)
    )
    if level:
        query = query.where(sketches.c.level == level)
    for row in connection.execute(query):
        yield Point(*row)


def _read_odd(
    connection: Connection, series_id: int, first: int, end: int, limit: int
) -> list[Point]:
    """Every point that is not finite, or none if there are more than ``limit``."""
    query: Select[Any] = (
        select(*_TOLD)
        .where(sketches.c.series_id == series_id, sketches.c.level == ODD)
        .where(sketches.c.idx >= first, sketches.c.idx < end)
        .order_by(sketches.c.idx)
        .limit(limit + 1)
    )
    found = [Point(*row) for row in connection.execute(query)]
    return found if len(found) <= limit else []
