"""Reads what is new in the curves of many runs, in a few queries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, Select, select, text

from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import runs, series, streams
from lineside.store.database.values import decode_float

_RUNS_AT_A_TIME = 500
_SERIES_AT_A_TIME = 200
T = TypeVar("T")


class NewPoint(NamedTuple):
    """One point; ``value`` may be NaN or infinite, ``time`` is in seconds since the epoch."""

    step: int
    time: float
    value: float


class NewPoints(NamedTuple):
    """The points of one series, which has ``n``, that were not known before, oldest first.

    Of many new ones only the newest are read. ``kind`` is METRIC or TIMING.
    """

    run: str
    producer: str
    attempt: str
    kind: str
    name: str
    series_id: int
    n: int
    points: Sequence[NewPoint]


def read_new_points(
    engine: Engine, run_ids: Collection[str], known: Mapping[int, int], limit: int
) -> list[NewPoints]:
    """The new points of every series of these runs, at most the newest ``limit`` of each.

    ``known`` has the ``n`` of each series, by its id, as it was read last.

    Raises:
        StoreError: the store cannot be read.
    """
    with read_transaction(engine) as connection:
        found = [
            row
            for some in _chunks(run_ids, _RUNS_AT_A_TIME)
            for row in connection.execute(_select_series(some))
            if row.n > known.get(row.id, 0)
        ]
        # The newest point is in the row of its series: most series have no more new ones.
        several = {
            row.id: max(known.get(row.id, 0), row.n - limit)
            for row in found
            if row.n - known.get(row.id, 0) > 1
        }
        points = _read_points(connection, several)
    return [
        NewPoints(
            row.run,
            row.producer,
            row.attempt,
            row.kind,
            row.name,
            row.id,
            row.n,
            points.get(row.id)
            or [NewPoint(row.last_step, row.last_time, decode_float(row.last, row.last_flag))],
        )
        for row in found
    ]


def _select_series(run_ids: Sequence[str]) -> Select[Any]:
    return (
        select(
            runs.c.id.label("run"),
            streams.c.producer,
            streams.c.attempt,
            series.c.id,
            series.c.kind,
            series.c.name,
            series.c.n,
            series.c.last,
            series.c.last_flag,
            series.c.last_step,
            series.c.last_time,
        )
        .join(streams, streams.c.run_key == runs.c.key)
        .join(series, series.c.stream_id == streams.c.id)
        .where(runs.c.id.in_(run_ids), streams.c.ignored.is_(False))
    )


def _read_points(
    connection: Connection, first_by_series: Mapping[int, int]
) -> dict[int, list[NewPoint]]:
    """The points of each series from an index on."""
    found: dict[int, list[NewPoint]] = {}
    for some in _chunks(first_by_series.items(), _SERIES_AT_A_TIME):
        # A row for each series, joined to a range of the primary key. SQLAlchemy would compile
        # this query anew for each number of series.
        wanted = ", ".join(f"({int(series_id)}, {int(first)})" for series_id, first in some)
        query = text(
            f"WITH wanted (id, first) AS (VALUES {wanted})"  # noqa: S608 - whole numbers
            " SELECT p.series_id, p.step, p.time, p.value, p.flag FROM wanted"
            " JOIN points p ON p.series_id = wanted.id AND p.idx >= wanted.first"
            " ORDER BY p.series_id, p.idx"
        )
        for series_id, step, time, value, flag in connection.execute(query):
            found.setdefault(series_id, []).append(NewPoint(step, time, decode_float(value, flag)))
    return found


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
