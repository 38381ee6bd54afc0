"""Reads the curves of metrics and timing, whole or downsampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, isfinite
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, or_, select

from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import RANK_0, is_rank
from lineside.store.database.tables import METRIC, attempts, points, series, sketches, streams
from lineside.store.database.values import FLAGS, decode_float, to_datetime
from lineside.store.downsampling import NON_FINITE_LEVEL, Point, downsample, plan_reads
from lineside.store.history.records import Points, Series


class CurveSource(NamedTuple):
    """Selects curves: of a run, of an attempt (None if it has none), of a producer (None: any).

    A stream that is not named after an attempt of the run is of a producer beside the training; it
    counts for every attempt.
    """

    run_key: int
    attempt: str | None
    producer: str | None


@dataclass(frozen=True, slots=True)
class CurveRequest:
    """Selects points of a curve: about ``points`` (None: all) between ``start`` and ``end``.

    Both are in units of ``x`` (step or time); None means no limit.

    Raises:
        UsageError: ``x`` is neither, or ``points`` is below 1.
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

    def x_of(self, point: Point) -> float:
        """The place of ``point`` on the axis."""
        return point[2] if self.x == "time" else point[1]

    def has(self, point: Point) -> bool:
        """Whether ``point`` is between ``start`` and ``end``."""
        at = self.x_of(point)
        return (self.start is None or at >= self.start) and (self.end is None or at <= self.end)


def read_metrics(connection: Connection, source: CurveSource) -> list[Series]:
    """The metrics: rank 0's first, then by producer and name."""
    rows = connection.execute(_series(source, METRIC))
    groups = groupby(rows, lambda row: (row.producer, row.name))
    return [_to_series(list(group)) for _, group in groups]


def read_curve(
    connection: Connection, source: CurveSource, kind: str, name: str, request: CurveRequest
) -> Points:
    """The requested part of a curve, with one neighbour on each side.

    It has all points that are not finite if they are at most as many as requested, else the first
    of each block. A curve of a producer beside the training is sorted by ``x``. A curve that does
    not exist has no points.
    """
    rows = connection.execute(_series(source, kind).where(series.c.name == name)).all()
    producer = rows[0].producer if rows else source.producer or RANK_0
    rows = [row for row in rows if row.producer == producer]
    total = sum(row.n for row in rows)
    kept: list[Point] = []
    is_downsampled = False
    for row in rows:
        share = None if request.points is None else max(1, request.points * row.n // (total or 1))
        part = _with_neighbours(connection, row, request)
        first, end = _span(connection, row, part)
        found = _read_downsampled(connection, row.id, row.n, share, first, end)
        is_downsampled |= len(found) < end - first
        kept += found if part is request else [point for point in found if part.has(point)]
    if not is_rank(producer):
        kept.sort(key=request.x_of)
    step, time = [point[1] for point in kept], [point[2] for point in kept]
    return Points(
        name=name,
        attempt=_curve_attempt(source, rows),
        producer=producer,
        x=[float(value) for value in (time if request.x == "time" else step)],
        y=[point[4] for point in kept],
        step=step,
        time=time,
        epoch=[point[3] for point in kept],
        flag=[FLAGS[point[5]] for point in kept],
        total=total,
        sum=_sum([row.sum for row in rows]),
        downsampled=is_downsampled,
    )


def _curve_attempt(source: CurveSource, rows: Sequence[Any]) -> str | None:
    """The attempt; None for a curve of a producer beside the training that covers the whole run."""
    is_of_attempt = any(row.attempt == source.attempt for row in rows)
    return source.attempt if is_of_attempt or not rows else None


def _series(source: CurveSource, kind: str) -> Select[Any]:
    known_attempts = select(attempts.c.attempt).where(attempts.c.run_key == source.run_key)
    query = (
        select(series, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == series.c.stream_id)
        .where(streams.c.run_key == source.run_key, series.c.kind == kind)
        .where(
            or_(
                streams.c.attempt == source.attempt,
                streams.c.attempt.not_in(known_attempts),
            )
        )
        .order_by(
            (streams.c.producer == RANK_0).desc(),
            streams.c.producer,
            series.c.name,
            streams.c.attempt,
        )
    )
    return query if source.producer is None else query.where(streams.c.producer == source.producer)


def _to_series(rows: Sequence[Any]) -> Series:
    """One metric of one producer, which may have a stream for each of its starts."""
    newest = max(rows, key=lambda row: row.last_time)
    return Series(
        name=newest.name,
        attempt=newest.attempt,
        producer=newest.producer,
        count=sum(row.n for row in rows),
        last=decode_float(newest.last, newest.last_flag),
        last_step=newest.last_step,
        last_time=to_datetime(newest.last_time),
        min=min((row.min for row in rows if row.min is not None), default=None),
        max=max((row.max for row in rows if row.max is not None), default=None),
    )


def _sum(sums: Sequence[float | None]) -> float | None:
    total = sum((part for part in sums if part is not None), 0.0)
    return total if None not in sums and isfinite(total) else None


def _read_downsampled(
    connection: Connection, series_id: int, total: int, wanted: int | None, first: int, end: int
) -> list[Point]:
    size, reads = plan_reads(total, wanted or end - first, first, end)
    rows = (point for part in reads for point in _read(connection, series_id, *part))
    if size == 1:
        return list(rows)
    kept = downsample(rows, size)
    non_finite = _read_non_finite(connection, series_id, first, end, wanted or 0)
    known = {point[0]: point for point in (*kept, *non_finite)}
    return [known[idx] for idx in sorted(known)]


def _ascends(row: Any, x: str) -> bool:
    # An evaluator may take the checkpoints of a run in any order.
    return x == "time" or is_rank(row.producer)


def _with_neighbours(connection: Connection, row: Any, request: CurveRequest) -> CurveRequest:
    """The request; for a curve in any order widened to the nearest point on each side."""
    if _ascends(row, request.x) or (request.start is None and request.end is None):
        return request
    step, start, end = points.c.step, request.start, request.end
    before = func.max(step).filter(step < (-inf if start is None else start))
    after = func.min(step).filter(step > (inf if end is None else end))
    query = select(before, after).where(points.c.series_id == row.id)
    low, high = connection.execute(query).one()
    return replace(request, start=start if low is None else low, end=end if high is None else high)


def _span(connection: Connection, row: Any, request: CurveRequest) -> tuple[int, int]:
    """The ordinals, from and to before, of the requested part and one neighbour on each side."""
    first, end = 0, row.n
    if not _ascends(row, request.x):
        return _span_of_any_order(connection, row, request)
    if request.start is not None:
        first = max(0, _first_at(connection, row.id, row.n, request.x, request.start, False) - 1)
    if request.end is not None:
        end = min(row.n, _first_at(connection, row.id, row.n, request.x, request.end, True) + 1)
    return first, max(first, end)


def _span_of_any_order(connection: Connection, row: Any, request: CurveRequest) -> tuple[int, int]:
    """The ordinals, from and to before, among which every requested point is."""
    if request.start is None and request.end is None:
        return 0, row.n
    query = select(func.min(points.c.idx), func.max(points.c.idx))
    query = query.where(points.c.series_id == row.id)
    if request.start is not None:
        query = query.where(points.c.step >= request.start)
    if request.end is not None:
        query = query.where(points.c.step <= request.end)
    first, last = connection.execute(query).one()
    return (0, 0) if first is None else (first, last + 1)


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
    for row in connection.execute(_stored_points(series_id, level or None, first, end)):
        yield Point(*row)


def _read_non_finite(
    connection: Connection, series_id: int, first: int, end: int, limit: int
) -> list[Point]:
    """All points that are not finite, or none if there are more than ``limit``."""
    query = _stored_points(series_id, NON_FINITE_LEVEL, first, end).limit(limit + 1)
    found = [Point(*row) for row in connection.execute(query)]
    return found if len(found) <= limit else []


def _stored_points(series_id: int, level: int | None, first: int, end: int) -> Select[Any]:
    """The points themselves if ``level`` is None, else the selected ones of that level."""
    table = points if level is None else sketches
    query: Select[Any] = (
        select(*(table.c[name] for name in Point._fields))
        .where(table.c.series_id == series_id, table.c.idx >= first, table.c.idx < end)
        .order_by(table.c.idx)
    )
    return query if level is None else query.where(sketches.c.level == level)
