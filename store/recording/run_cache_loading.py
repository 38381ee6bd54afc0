"""Loads the states of the run cache from the rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from lineside.bus.protocol.events import Event
from lineside.bus.protocol.metric_points import MetricPoints
from lineside.store.database.tables import (
    attempts,
    blocks,
    events,
    points,
    runs,
    series,
    sketches,
    streams,
)
from lineside.store.database.values import from_json
from lineside.store.downsampling import Point, Summary, open_block_starts
from lineside.store.recording.run_state import (
    ATTEMPT_COLUMNS,
    RANK_COLUMNS,
    RUN_COLUMNS,
    SERIES_COLUMNS,
    STREAM_COLUMNS,
    AttemptState,
    RunState,
    SeriesState,
    StreamState,
)
from lineside.store.status.verdict import RankState

_EVENTS_OF_A_STEP = 20  # of one kind, of which the next evaluation may take a log


def load_run(connection: Connection, run_id: str) -> RunState | None:
    """The run with its attempts and streams; None if the store does not have it."""
    row = connection.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        return None
    run = RunState(row.key, run_id, deleted_at=row.deleted_at, **_column_dict(row, RUN_COLUMNS))
    for found in connection.execute(select(attempts).where(attempts.c.run_key == run.key)):
        run.attempts[found.attempt] = AttemptState(
            found.id, found.attempt, **_column_dict(found, ATTEMPT_COLUMNS)
        )
    for found in connection.execute(select(streams).where(streams.c.run_key == run.key)):
        run.streams[found.producer, found.attempt] = StreamState(
            found.id,
            found.producer,
            found.attempt,
            found.ignored,
            **_column_dict(found, STREAM_COLUMNS),
            rank=RankState(**_column_dict(found, RANK_COLUMNS)),
        )
    return run


def load_curves(connection: Connection, stream: StreamState) -> None:
    """Load the curves of a stream."""
    curves = select(series).where(series.c.stream_id == stream.id)
    for row in connection.execute(curves).all():
        curve = SeriesState(row.id, **_column_dict(row, SERIES_COLUMNS))
        _restore_open_blocks(connection, curve)
        stream.series[row.kind, row.name] = curve
    stream.is_loaded = True


def load_metric_points(connection: Connection, run: RunState, stream: StreamState) -> MetricPoints:
    """Repeat the stream's newest events with numbers, as far as the next one depends on them."""
    rows: list[Any] = []
    for kind in ("log", "evaluate", "predict"):
        rows += connection.execute(
            select(events.c.n, events.c.seq, events.c.kind, events.c.step, events.c.data)
            .where(events.c.run_key == run.key, events.c.kind == kind)
            .where(events.c.stream_id == stream.id)
            .order_by(events.c.n.desc())
            .limit(_EVENTS_OF_A_STEP)
        ).all()
    rows.sort(key=lambda row: row.n)
    points = MetricPoints()
    for row in rows:
        points.of(Event(row.seq, 0.0, 0, row.kind, row.step, data=from_json(row.data)))
    return points


def _restore_open_blocks(connection: Connection, curve: SeriesState) -> None:
    for level, first in open_block_starts(curve.n):
        for point in connection.execute(_rows(sketches if level else points, curve, level, first)):
            curve.open_blocks.restore(level, Point._make(point))
        if level:
            for part in connection.execute(_rows(blocks, curve, level, first)):
                curve.open_blocks.restore_summary(level, Summary._make(part))


def _rows(table: Table, curve: SeriesState, level: int, first: int) -> Select[Any]:
    fields = Summary._fields if table is blocks else Point._fields
    query = select(*(table.c[name] for name in fields)).order_by(table.c.idx)
    query = query.where(table.c.series_id == curve.id, table.c.idx >= first)
    return query.where(table.c.level == level) if level else query


def _column_dict(row: Row[Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row._mapping[name] for name in names}
