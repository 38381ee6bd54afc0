"""Deleting a run: gone at once for readers, then off the disk slice by slice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Delete, Engine, delete, insert, select, update

from lineside.bus.errors import RunNotFound
from lineside.store.database.database import reading, unpooled, writing
from lineside.store.database.schema import (
    attempts,
    checkpoints,
    commands,
    event_counts,
    events,
    gaps,
    points,
    runs,
    series,
    sketches,
    streams,
)
from lineside.store.recording.audit import keep_expired
from lineside.store.recording.states import is_rank
from lineside.store.sketch import ODD, TELLING, block_size

SLICE = 20_000
"""Rows that go in one transaction: some 20 ms in which nobody else can write."""
_EVENT_WEIGHT = 5  # an event's row is as large as so many points
_PAGES = 1000


class Piece(NamedTuple):
    """A part of the work: about ``rows`` rows."""

    rows: int
    statement: Delete


def bury(engine: Engine, run_id: str, now: float) -> None:
    """Take the run out of every list.

    Its row is set aside for ``purge`` and a blank one takes its place, with the streams as far as
    they were recorded: so what still comes of the deleted attempts is known and left out, while
    the shipper, which may serve an attempt to come, goes on where it is.

    Raises:
        RunNotFound: no such run.
    """
    with writing(engine) as (connection, revision):
        row = connection.execute(
            select(runs).where(runs.c.id == run_id, runs.c.started_at.is_not(None))
        ).first()
        if row is None:
            raise RunNotFound(run_id)
        keep_expired(connection, run_id, now)
        connection.execute(
            update(runs)
            .where(runs.c.key == row.key)
            .values(id=f"#{row.key}", started_at=None, purging=True, revision=revision)
        )
        made = connection.execute(
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
                    run_key=made[0],  # type: ignore[index]
                    producer=stream.producer,
                    attempt=stream.attempt,
                    ignored=stream.ignored or is_rank(stream.producer),
                    next_seq=stream.next_seq,
                    recorded=stream.recorded,
                    missing=stream.missing,
                    unreadable=0,
                    emitted=stream.emitted,
                    heard_at=stream.heard_at,
                    began=False,
                    ended=False,
                    lost=False,
                )
            )


def purge(engine: Engine) -> None:
    """Delete the rows of every run set aside, and give the disk back. Can be cut short anywhere."""
    with reading(engine) as connection:
        keys = [key for (key,) in connection.execute(select(runs.c.key).where(runs.c.purging))]
    for key in keys:
        with reading(engine) as connection:
            pieces = list(_pieces(connection, key))
        while pieces:
            with writing(engine) as (connection, _):
                weight = 0
                while pieces and weight < SLICE:
                    piece = pieces.pop(0)
                    connection.execute(piece.statement)
                    weight += piece.rows
        with writing(engine) as (connection, _):
            _forget(connection, key)
    if keys and engine.dialect.name == "sqlite":
        with unpooled(engine) as raw:
            _shrink(raw)


def _pieces(connection: Connection, key: int) -> Iterator[Piece]:
    of_run = select(streams.c.id).where(streams.c.run_key == key)
    for curve, n in connection.execute(
        select(series.c.id, series.c.n).where(series.c.stream_id.in_(of_run))
    ).all():
        yield Piece(
            SLICE, delete(sketches).where(sketches.c.series_id == curve, sketches.c.level == ODD)
        )
        level = 0
        while block_size(level) <= n:
            table = sketches if level else points
            rows_a_block = TELLING if level else 1
            span = SLICE // rows_a_block * block_size(level)
            for first in range(0, n, span):
                statement = delete(table).where(
                    table.c.series_id == curve, table.c.idx >= first, table.c.idx < first + span
                )
                if level:
                    statement = statement.where(table.c.level == level)
                rows = min(span, n - first) // block_size(level) * rows_a_block
                yield Piece(rows, statement)
            level += 1
    count: int = connection.execute(select(runs.c.events).where(runs.c.key == key)).scalar_one()
    span = SLICE // _EVENT_WEIGHT
    for first in range(0, count + 1, span):
        mine = events.c.run_key == key
        yield Piece(
            SLICE, delete(events).where(mine, events.c.n >= first, events.c.n < first + span)
        )


def _forget(connection: Connection, key: int) -> None:
    of_run = select(streams.c.id).where(streams.c.run_key == key)
    for table in (series, event_counts, gaps):
        connection.execute(delete(table).where(table.c.stream_id.in_(of_run)))
    for table in (checkpoints, commands, streams, attempts):
        connection.execute(delete(table).where(table.c.run_key == key))
    connection.execute(delete(runs).where(runs.c.key == key))


def _shrink(raw: sqlite3.Connection) -> None:
    """Give free pages back to the file system, a few at a time, and empty the write-ahead log."""
    while raw.execute("PRAGMA freelist_count").fetchone()[0]:
        before = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        if raw.execute("PRAGMA page_count").fetchone()[0] == before:
            break  # a store that was not made by us may not be able to
    # Whoever reads right now is not waited for long: the writer would wait with us.
    raw.execute("PRAGMA busy_timeout = 500")
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
