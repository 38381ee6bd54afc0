"""A run's history as rows of named columns, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Engine, select

from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import points, runs, series, streams
from lineside.store.database.values import decode_float
from lineside.store.history.history import History

TEXT, INTEGER, FLOAT, TIME, JSON = "text", "integer", "float", "time", "json"
_FETCH_SIZE = 5_000  # rows held at once


@dataclass(frozen=True)
class Rows:
    """``columns`` maps names to what they hold; each of ``items`` has a value or None for each.

    TIME is a UTC datetime; a FLOAT may be NaN or infinite; JSON is what ``json`` can nest.
    """

    noun: str
    columns: dict[str, str]
    items: Iterator[tuple[Any, ...]]


def metric_rows(engine: Engine, run_id: str) -> Rows:
    """Every logged value of every attempt and producer, metric by metric in the order logged."""
    return _curve_rows(engine, run_id, "metric", "point", "name", "value")


def timing_rows(engine: Engine, run_id: str) -> Rows:
    """Seconds of compute (step_begin to step_end) and of wait (to the next step_begin), by step."""
    return _curve_rows(engine, run_id, "timing", "timing", "part", "seconds")


def event_rows(engine: Engine, run_id: str) -> Rows:
    """Every event that the store keeps as a row, in the order recorded.

    Step-level kinds and heartbeats are not among them: they are in the timing and the counts.
    """
    columns = {
        "n": INTEGER,
        "attempt": TEXT,
        "producer": TEXT,
        "seq": INTEGER,
        "kind": TEXT,
        "step": INTEGER,
        "epoch": FLOAT,
        "time": TIME,
        "data": JSON,
    }

    def items() -> Iterator[tuple[Any, ...]]:
        history, after = History(engine), 0
        while True:
            page = history.events(run_id, after=after, limit=1000)
            for row in page.items:
                yield tuple(getattr(row, name) for name in columns)
            if page.next is None:
                return
            after = int(page.next)

    return Rows("event", columns, items())


def command_rows(engine: Engine, run_id: str) -> Rows:
    """Every command to the run as it stands now, the newest first."""
    columns = {
        "id": TEXT,
        "op": TEXT,
        "args": JSON,
        "reason": TEXT,
        "issued_by": TEXT,
        "requested_at": TIME,
        "expires_at": TIME,
        "state": TEXT,
        "delivered_at": TIME,
        "settled_at": TIME,
        "attempt": TEXT,
        "step": INTEGER,
        "detail": TEXT,
    }

    def items() -> Iterator[tuple[Any, ...]]:
        history, cursor = History(engine), None
        while True:
            page = history.commands(run_id, limit=1000, cursor=cursor)
            for row in page.items:
                yield tuple(getattr(row, name) for name in columns)
            if page.next is None:
                return
            cursor = page.next

    return Rows("command", columns, items())


def _curve_rows(engine: Engine, run_id: str, kind: str, noun: str, name: str, value: str) -> Rows:
    columns = {
        "attempt": TEXT,
        "producer": TEXT,
        name: TEXT,
        "step": INTEGER,
        "epoch": FLOAT,
        "time": TIME,
        value: FLOAT,
    }
    query = (
        select(
            streams.c.attempt,
            streams.c.producer,
            series.c.name,
            points.c.step,
            points.c.epoch,
            points.c.time,
            points.c.value,
            points.c.flag,
        )
        .join(series, series.c.id == points.c.series_id)
        .join(streams, streams.c.id == series.c.stream_id)
        .join(runs, runs.c.key == streams.c.run_key)
        .where(runs.c.id == run_id, series.c.kind == kind)
        .order_by(points.c.series_id, points.c.idx)
        .execution_options(yield_per=_FETCH_SIZE)
    )

    def items() -> Iterator[tuple[Any, ...]]:
        with read_transaction(engine) as connection:
            for *facts, step, epoch, time, number, flag in connection.execute(query):
                moment = datetime.fromtimestamp(time, timezone.utc)
                yield (*facts, step, epoch, moment, decode_float(number, flag))

    return Rows(noun, columns, items())
