"""Reading curves: what there is of them, whole or made short, and row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select

from lineside.bus.errors import UsageError
from lineside.store.database.tables import METRIC, points, series, sketches, streams
from lineside.store.database.values import FLAGS, decode_float, to_datetime
from lineside.store.downsampling import NON_FINITE_LEVEL, Point, downsample, plan_reads
from lineside.store.history.records import Points, Series

_POINT_COLUMNS = (
    points.c.idx,
    points.c.step,
    points.c.time,
    points.c.epoch,
    points.c.value,
    points.c.flag,
)
_SKETCH_COLUMNS = tuple(sketches.c[column.name] for column in _POINT_COLUMNS)


class StreamKey(NamedTuple):
    """Whose curves: a run's key, an attempt of it (None if it has none), a producer."""

    run_key: int
    attempt: str | None
    producer: str


@dataclass(frozen=True, slots=True)
class CurveRequest:
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


def read_metrics(connection: Connection, stream_key: StreamKey) -> list[Series]:
    """The metrics there, by name."""
    rows = connection.execute(_series(stream_key, METRIC).order_by(series.c.name))
    return [
        Series(
            name=row.name,
            attempt=row.attempt,
            producer=row.producer,
            count=row.n,
            last=decode_float(row.last, row.last_flag),
            last_step=row.last_step,
            last_time=to_datetime(row.last_time),
            min=row.min,
            max=row.max,
        )
        for row in rows
    ]


def read_curve(
    connection: Connection, stream_key: StreamKey, kind: str, name: str, request: CurveRequest
) -> Points:
    """The part of a curve that is wanted, with its neighbours on both sides.

    All points that are not finite are there if they are at most as many as wanted, else the first
    of each block. A curve that does not exist has no points.
    """
    row = connection.execute(_series(stream_key, kind).where(series.c.name == name)).first()
    kept: list[Point] = []
    first = end = 0
    if row is not None:
        first, end = _span(connection, row.id, row.n, request)
        kept = _read_downsampled(connection, row.id, row.n, request, first, end)
    step, time = [point[1] for point in kept], [point[2] for point in kept]
    return Points(
        name=name,
        attempt=stream_key.attempt,
        x=[float(value) for value in (time if request.x == "time" else step)],
        y=[point[4] for point in kept],
        step=step,
        time=time,
        epoch=[point[3] for point in kept],
        flag=[FLAGS[point[5]] for point in kept],
        total=0 if row is None else row.n,
        sum=0.0 if row is None else row.sum,
        downsampled=len(kept) < end - first,
    )


def _series(stream_key: StreamKey, kind: str) -> Select[Any]:
    return (
        select(series, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == series.c.stream_id)
        .where(streams.c.run_key == stream_key.run_key, streams.c.attempt == stream_key.attempt)
        .where(streams.c.producer == stream_key.producer, series.c.kind == kind)
    )


def _read_downsampled(
    connection: Connection, series_id: int, total: int, request: CurveRequest, first: int, end: int
) -> list[Point]:
    size, reads = plan_reads(total, request.points or end - first, first, end)
    rows = (point for part in reads for point in _read(connection, series_id, *part))
    if size == 1:
        return list(rows)
    kept = downsample(rows, size)
    non_finite = _read_non_finite(connection, series_id, first, end, request.points or 0)
    known = {point[0]: point for point in (*kept, *non_finite)}
    return [known[idx] for idx in sorted(known)]


def _span(
    connection: Connection, series_id: int, total: int, request: CurveRequest
) -> tuple[int, int]:
    """The ordinals, from and to before, of the part wanted and one neighbour on each side."""
    first, end = 0, total
    if request.start is not None:
        first = max(0, _first_at(connection, series_id, total, request.x, request.start, False) - 1)
    if request.end is not None:
        end = min(total, _first_at(connection, series_id, total, request.x, request.end, True) + 1)
    return first, max(first, end)


def _first_at(
    connection: Connection, series_id: int, total: int, x: str, value: float, strictly_after: bool
) -> int:
    """The first ordinal at ``value`` or after it; ``total`` if there is none.

    Steps and times of one stream ascend, so a bisection by the primary key finds it.
    """
    column = points.c.time if x == "time" else points.c.step
    low, high = 0, total
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(
            select(column).where(points.c.series_id == series_id, points.c.idx == middle)
        ).scalar_one()
        if found < value or (strictly_after and found == value):
            low = middle + 1
        else:
            high = middle
    return low


def _read(
    connection: Connection, series_id: int, level: int, first: int, end: int
) -> Iterator[Point]:
    table, columns = (sketches, _SKETCH_COLUMNS) if level else (points, _POINT_COLUMNS)
    query: Select[Any] = (
        select(*columns)
        .where(table.c.series_id == series_id, table.c.idx >= first, table.c.idx < end)
        .order_by(table.c.idx)
    )
    if level:
        query = query.where(sketches.c.level == level)
    for row in connection.execute(query):
        yield Point(*row)


def _read_non_finite(
    connection: Connection, series_id: int, first: int, end: int, limit: int
) -> list[Point]:
    """Every point that is not finite, or none if there are more than ``limit``."""
    query: Select[Any] = (
        select(*_SKETCH_COLUMNS)
        .where(sketches.c.series_id == series_id, sketches.c.level == NON_FINITE_LEVEL)
        .where(sketches.c.idx >= first, sketches.c.idx < end)
        .order_by(sketches.c.idx)
        .limit(limit + 1)
    )
    found = [Point(*row) for row in connection.execute(query)]
    return found if len(found) <= limit else []
