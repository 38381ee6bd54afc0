"""Deletes a run: hidden from readers at once, then removed from the disk in slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Delete, Engine, delete, insert, select, update

from lineside.bus.errors import RunNotFound
from lineside.bus.protocol.events import is_rank
from lineside.store.database.engine import (
    raw_sqlite_connection,
    read_transaction,
    write_transaction,
)
from lineside.store.database.sqlite import reclaim_space
from lineside.store.database.tables import (
    alert_mutes,
    alerts,
    attempts,
    blocks,
    checkpoint_states,
    checkpoints,
    commands,
    event_counts,
    events,
    gaps,
    logged_values,
    points,
    runs,
    series,
    sketches,
    streams,
)
from lineside.store.downsampling import MAX_SELECTED, NON_FINITE_LEVEL, block_size
from lineside.store.recording.audit import add_expired_entries

ROWS_PER_TRANSACTION = 20_000
"""Rows deleted in one transaction: other writers wait some 20 ms for it."""
_EVENT_WEIGHT = 5  # the row of an event is about as large as 5 points


class DeleteChunk(NamedTuple):
    """A statement that deletes about ``rows`` rows."""

    rows: int
    statement: Delete


def mark_deleted(engine: Engine, run_id: str, now: float) -> None:
    """Hide the run from every list and reserve its rows for ``purge``.

    A blank row takes its place, with copies of its streams and their positions. So the writer
    ignores late events of the deleted attempts, while the stream of the shipper, which may serve a
    later attempt, continues.

    Raises:
        RunNotFound: no such run.
    """
    with write_transaction(engine) as (connection, revision):
        row = connection.execute(
            select(runs).where(runs.c.id == run_id, runs.c.started_at.is_not(None))
        ).first()
        if row is None:
            raise RunNotFound(run_id)
        add_expired_entries(connection, run_id, now)
        connection.execute(
            update(runs)
            .where(runs.c.key == row.key)
            .values(id=f"#{row.key}", started_at=None, purging=True, revision=revision)
        )
        inserted_key = connection.execute(
            insert(runs).values(
                id=run_id,
                status=row.status,
                heard_at=now,
                revision=revision,
                events=0,
                deleted_at=now,
                purging=False,
            )
        ).inserted_primary_key
        for stream in connection.execute(select(streams).where(streams.c.run_key == row.key)).all():
            connection.execute(
                insert(streams).values(
                    run_key=inserted_key[0],  # type: ignore[index]
                    producer=stream.producer,
                    attempt=stream.attempt,
                    ignored=stream.ignored or is_rank(stream.producer),
                    next_seq=stream.next_seq,
                    recorded=stream.recorded,
                    missing=stream.missing,
                    reported=stream.reported,
                    unreadable=0,
                    emitted=stream.emitted,
                    heard_at=stream.heard_at,
                    began=False,
                    ended=False,
                    lost=False,
                )
            )


def purge(engine: Engine) -> None:
    """Delete the rows of every hidden run and free the disk. A later call continues a cut one."""
    with read_transaction(engine) as connection:
        keys = [key for (key,) in connection.execute(select(runs.c.key).where(runs.c.purging))]
    for key in keys:
        with read_transaction(engine) as connection:
            chunks = list(_delete_chunks(connection, key))
        while chunks:
            with write_transaction(engine) as (connection, _):
                row_count = 0
                while chunks and row_count < ROWS_PER_TRANSACTION:
                    chunk = chunks.pop(0)
                    connection.execute(chunk.statement)
                    row_count += chunk.rows
        with write_transaction(engine) as (connection, _):
            _delete_run_rows(connection, key)
    if keys and engine.dialect.name == "sqlite":
        with raw_sqlite_connection(engine) as raw:
            reclaim_space(raw)


def _delete_chunks(connection: Connection, key: int) -> Iterator[DeleteChunk]:
    stream_ids = select(streams.c.id).where(streams.c.run_key == key)
    for curve, n in connection.execute(
        select(series.c.id, series.c.n).where(series.c.stream_id.in_(stream_ids))
    ).all():
        yield DeleteChunk(
            ROWS_PER_TRANSACTION,
            delete(sketches).where(
                sketches.c.series_id == curve, sketches.c.level == NON_FINITE_LEVEL
            ),
        )
        level = 0
        while block_size(level) <= n:
            rows_per_block = MAX_SELECTED + 1 if level else 1
            span = ROWS_PER_TRANSACTION // rows_per_block * block_size(level)
            for first in range(0, n, span):
                rows = min(span, n - first) // block_size(level)
                for table in (sketches, blocks) if level else (points,):
                    statement = delete(table).where(
                        table.c.series_id == curve, table.c.idx >= first, table.c.idx < first + span
                    )
                    if level:
                        statement = statement.where(table.c.level == level)
                    yield DeleteChunk(rows * MAX_SELECTED if table is sketches else rows, statement)
            level += 1
    count: int = connection.execute(select(runs.c.events).where(runs.c.key == key)).scalar_one()
    span = ROWS_PER_TRANSACTION // _EVENT_WEIGHT
    for first in range(0, count + 1, span):
        in_run = events.c.run_key == key
        yield DeleteChunk(
            ROWS_PER_TRANSACTION,
            delete(events).where(in_run, events.c.n >= first, events.c.n < first + span),
        )


def _delete_run_rows(connection: Connection, key: int) -> None:
    stream_ids = select(streams.c.id).where(streams.c.run_key == key)
    for table in (series, logged_values, event_counts, gaps):
        connection.execute(delete(table).where(table.c.stream_id.in_(stream_ids)))
    for table in (
        checkpoints,
        checkpoint_states,
        commands,
        alerts,
        alert_mutes,
        streams,
        attempts,
    ):
        connection.execute(delete(table).where(table.c.run_key == key))
    connection.execute(delete(runs).where(runs.c.key == key))
