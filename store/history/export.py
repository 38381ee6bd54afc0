"""Reads whole runs row by row, in bounded memory, as of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

from sqlalchemy import Connection, Select, select

from lineside.store.database.tables import attempts, events, points, series, streams
from lineside.store.database.values import decode_float, to_datetime
from lineside.store.history.curves.pieces import AttemptSelection
from lineside.store.history.curves.records import PointRow
from lineside.store.history.records import EventRow
from lineside.store.history.timeline import to_event_row

CHUNK = 5000
"""Points fetched at a time."""
EVENT_CHUNK = 50
"""Events fetched at a time: one has up to 1 MiB of data."""


def iter_points(
    connection: Connection,
    key: int,
    kind: str,
    selection: AttemptSelection | None,
    names: Sequence[str] | None,
) -> Iterator[PointRow]:
    """By start of the attempt (those of no attempt last), producer, name and place in the curve.

    Of ``selection``, with the producers of no attempt; of everything if it is None.
    """
    for curve in connection.execute(_curves(key, kind)).all():
        if names is not None and curve.name not in names:
            continue
        last_step = inf
        if selection is not None and curve.is_of_attempt:
            last_step = selection.last_steps.get(curve.attempt, -inf)
        if last_step == -inf:
            continue
        columns = (points.c.step, points.c.epoch, points.c.time, points.c.value, points.c.flag)
        query = select(*columns).where(points.c.series_id == curve.id).order_by(points.c.idx)
        if last_step < inf:
            query = query.where(points.c.step <= last_step)
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
    for row in _iter_rows(connection, query, EVENT_CHUNK):
        yield to_event_row(row)


def _curves(key: int, kind: str) -> Select[Any]:
    is_of_attempt = attempts.c.started_at.is_not(None).label("is_of_attempt")
    return (
        select(series.c.id, series.c.name, streams.c.producer, streams.c.attempt, is_of_attempt)
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


def _iter_rows(connection: Connection, query: Select[Any], chunk: int = CHUNK) -> Iterator[Any]:
    return iter(connection.execution_options(yield_per=chunk).execute(query))
