"""Reading a curve, whole or made short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, select

from lineside.store.records import Points
from lineside.store.schema import points, sketches
from lineside.store.sketch import Point, plan, thin
from lineside.store.values import FINITE, FLAGS

_RAW = (points.c.idx, points.c.step, points.c.time, points.c.epoch, points.c.value, points.c.flag)
_TOLD = tuple(sketches.c[column.name] for column in _RAW)


def read_points(
    connection: Connection,
    series_id: int,
    total: int,
    *,
    name: str,
    attempt: str | None,
    wanted: int | None,
    x: str,
) -> Points:
    """The series as about ``wanted`` points; every one if it is None.

    All points that are not finite are there if they are at most ``wanted``, else the first of each
    block.
    """
    if wanted is None:
        return as_columns(list(_read(connection, series_id, 0, 0, total)), name, attempt, total, x)
    size, reads = plan(total, wanted)
    rows = (
        row
        for level, first, end in reads
        for row in _read(connection, series_id, level, first, end)
    )
    if size == 1:
        return as_columns(list(rows), name, attempt, total, x)
    kept = thin(rows, size)
    odd = _odd(connection, series_id, wanted)
    if odd:
        known = {point[0]: point for point in (*kept, *odd)}
        kept = [known[idx] for idx in sorted(known)]
    return as_columns(kept, name, attempt, total, x)


def as_columns(rows: list[Point], name: str, attempt: str | None, total: int, x: str) -> Points:
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
        downsampled=len(rows) < total,
    )


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


def _odd(connection: Connection, series_id: int, limit: int) -> list[Point]:
    """Every point that is not finite, or none if there are more than ``limit``."""
    query: Select[Any] = (
        select(*_RAW)
        .where(points.c.series_id == series_id, points.c.flag != FINITE)
        .order_by(points.c.idx)
        .limit(limit + 1)
    )
    found = [Point(*row) for row in connection.execute(query)]
    return found if len(found) <= limit else []
