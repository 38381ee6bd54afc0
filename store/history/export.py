"""Whole runs read row by row, in bounded memory, each run as of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from lineside.store.database.tables import METRIC, TIMING, attempts, events, points, series, streams
from lineside.store.database.values import decode_float
from lineside.store.history.records import EventRow, PointRow, TimingRow
from lineside.store.history.timeline import to_event_row

CHUNK = 5000
"""Rows fetched at a time."""


def iter_points(
    connection: Connection, key: int, attempt: str | None, names: Sequence[str] | None
) -> Iterator[PointRow]:
    """By attempt as started, producer, name and place in the curve."""
    for curve in _series_rows(connection, key, attempt, METRIC):
        if names is None or curve.name in names:
            for row in _points(connection, curve.id):
                yield PointRow(
                    name=curve.name,
                    attempt=curve.attempt,
                    producer=curve.producer,
                    step=row.step,
                    epoch=row.epoch,
                    time=row.time,
                    value=decode_float(row.value, row.flag),
                )


def iter_timing(connection: Connection, key: int, attempt: str | None) -> Iterator[TimingRow]:
    """By attempt as started, producer and step."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for curve in _series_rows(connection, key, attempt, TIMING):
        found.setdefault((curve.attempt, curve.producer), {})[curve.name] = curve.id
    for (name, producer), curves in found.items():
        compute, wait = (
            _points(connection, curves[which]) if which in curves else iter(())
            for which in ("compute", "wait")
        )
        for ended, began in _join_by_step(compute, wait):
            row: Any = ended or began
            yield TimingRow(
                attempt=name,
                producer=producer,
                step=row.step,
                epoch=row.epoch,
                time=row.time,
                compute=ended.value if ended else None,
                wait=began.value if began else None,
            )


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


def _series_rows(connection: Connection, key: int, attempt: str | None, kind: str) -> list[Any]:
    query = (
        select(series.c.id, series.c.name, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == series.c.stream_id)
        .outerjoin(
            attempts,
            (attempts.c.run_key == streams.c.run_key) & (attempts.c.attempt == streams.c.attempt),
        )
        .where(streams.c.run_key == key, series.c.kind == kind)
        .order_by(attempts.c.started_at, streams.c.attempt, streams.c.producer, series.c.name)
    )
    if attempt is not None:
        query = query.where(streams.c.attempt == attempt)
    return list(connection.execute(query))


def _points(connection: Connection, series_id: int) -> Iterator[Any]:
    return _iter_rows(
        connection,
        select(points).where(points.c.series_id == series_id).order_by(points.c.idx),
    )


def _iter_rows(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    return iter(connection.execution_options(yield_per=CHUNK).execute(query))


def _join_by_step(compute: Iterator[Any], wait: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Both curves' points side by side where they are of one step; each is in order of steps."""
    began = next(wait, None)
    for ended in compute:
        while began is not None and began.step < ended.step:
            yield None, began
            began = next(wait, None)
        if began is not None and began.step == ended.step:
            yield ended, began
            began = next(wait, None)
        else:
            yield ended, None
    while began is not None:
        yield None, began
        began = next(wait, None)
