"""Reads whole runs row by row, in bounded memory, as of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from lineside.store.database.tables import attempts, events, points, series, streams
from lineside.store.database.values import decode_float, to_datetime
from lineside.store.history.records import EventRow, PointRow
from lineside.store.history.timeline import to_event_row

CHUNK = 5000
"""Rows fetched at a time."""


def iter_points(
    connection: Connection, key: int, kind: str, attempt: str | None, names: Sequence[str] | None
) -> Iterator[PointRow]:
    """By start of the attempt (those of no attempt last), producer, name and place in the curve."""
    for curve in connection.execute(_curves(key, kind, attempt)).all():
        if names is not None and curve.name not in names:
            continue
        columns = (points.c.step, points.c.epoch, points.c.time, points.c.value, points.c.flag)
        query = select(*columns).where(points.c.series_id == curve.id).order_by(points.c.idx)
        labels = (curve.attempt, curve.producer, curve.name)
        for step, epoch, time, value, flag in _iter_rows(connection, query):
            yield PointRow(*labels, step, epoch, to_datetime(time), decode_float(value, flag))


def iter_events(connection: Connection, key: int, attempt: str | None) -> Iterator[EventRow]:
    """In order of recording."""
    query = (
        select(events, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == events.c.stream_id)
        .where(events.c.run_key == key)
        .order_by(events.c.n)
    )
    if attempt is not None:
        query = query.where(streams.c.attempt == attempt)
    for row in _iter_rows(connection, query):
        yield to_event_row(row)


def _curves(key: int, kind: str, attempt: str | None) -> Select[Any]:
    query = (
        select(series.c.id, series.c.name, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == series.c.stream_id)
        .outerjoin(
            attempts,
            (attempts.c.run_key == streams.c.run_key) & (attempts.c.attempt == streams.c.attempt),
        )
        .where(streams.c.run_key == key, series.c.kind == kind)
        .order_by(
            attempts.c.started_at.is_(None),
            attempts.c.started_at,
            streams.c.attempt,
            streams.c.producer,
            series.c.name,
        )
    )
    return query if attempt is None else query.where(streams.c.attempt == attempt)


def _iter_rows(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    return iter(connection.execution_options(yield_per=CHUNK).execute(query))
