"""Reads the events and gaps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, null, select

from lineside.bus.protocol.events import RANK_0
from lineside.store.database.tables import events, gaps, logged_values, streams
from lineside.store.database.values import from_json, to_datetime
from lineside.store.history.records import EventRow, GapRow, LoggedValue

PAGE_CHARACTERS = 2 << 20
"""A page of events ends after this many characters of data: decoded they take fifty times that."""
_ROWS_AT_A_TIME = 20


def read_events(
    connection: Connection,
    key: int,
    after: int,
    before: int | None,
    kinds: Sequence[str] | None,
    limit: int,
    *,
    with_data: bool = True,
) -> tuple[list[EventRow], bool]:
    """The first ``limit`` events of these kinds with numbers above ``after``, and if more follow.

    With ``before``, the newest events with numbers below it, newest first. There are fewer, but at
    least one, if their data is long; without ``with_data`` it is not read.
    """
    numbers: list[int] = []
    for kind in [None] if kinds is None else sorted(set(kinds)):
        query = select(events.c.n).where(events.c.run_key == key, events.c.n > after)
        query = query.order_by(events.c.n if before is None else events.c.n.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(events.c.n < before)
        if kind is not None:
            query = query.where(events.c.kind == kind)
        numbers.extend(connection.execute(query).scalars())
    newest_first = before is not None
    wanted = sorted(numbers, reverse=newest_first)[:limit]
    query_rows = _events_with_stream(key, with_data=with_data).where(events.c.n.in_(wanted))
    order = events.c.n.desc() if newest_first else events.c.n
    found: list[EventRow] = []
    characters = 0
    rows = connection.execute(
        query_rows.order_by(order).execution_options(yield_per=_ROWS_AT_A_TIME)
    )
    for row in rows:
        found.append(to_event_row(row))
        characters += len(row.data or "")
        if characters >= PAGE_CHARACTERS:
            rows.close()
            break
    return found, len(found) < len(numbers)


def read_facts(connection: Connection, key: int, attempt: str | None) -> dict[str, Any]:
    """The data of the attempt's ``run_start`` of the lowest rank; empty if there is none."""
    starts = select(events.c.n).where(events.c.run_key == key, events.c.kind == "run_start")
    row = connection.execute(
        _events_with_stream(key)
        .where(events.c.n.in_(connection.execute(starts).scalars().all()))
        .where(streams.c.attempt == attempt)
        .order_by(streams.c.producer, events.c.n)
        .limit(1)
    ).first()
    facts: dict[str, Any] = (from_json(row.data) if row else None) or {}
    return facts


def _events_with_stream(key: int, *, with_data: bool = True) -> Select[Any]:
    """Events of a run, to be narrowed to some numbers.

    Select them by their numbers only. Numbers are found by kind in the index alone; a query for
    whole rows by kind makes SQLite scan all events of the run instead.
    """
    columns = [
        column if with_data or column is not events.c.data else null().label("data")
        for column in events.c
    ]
    return (
        select(*columns, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == events.c.stream_id)
        .where(events.c.run_key == key)
    )


def read_gaps(connection: Connection, key: int) -> list[GapRow]:
    """All gaps in the order they were found."""
    rows = connection.execute(
        select(gaps, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == gaps.c.stream_id)
        .where(streams.c.run_key == key)
        .order_by(gaps.c.time, gaps.c.stream_id, gaps.c.first)
    )
    return [
        GapRow(row.producer, row.attempt, row.first, row.end, to_datetime(row.time)) for row in rows
    ]


def read_logged_values(connection: Connection, key: int, limit: int) -> list[LoggedValue]:
    """The newest value of each name of each producer, the newest ``limit`` of them, by name."""
    rows = connection.execute(
        select(logged_values, streams.c.producer)
        .join(streams, streams.c.id == logged_values.c.stream_id)
        .where(streams.c.run_key == key, streams.c.ignored.is_(False))
        .order_by(logged_values.c.time.desc(), logged_values.c.name)
        .limit(limit)
    )
    found: dict[tuple[str, str], LoggedValue] = {}
    for row in rows:
        value = LoggedValue(row.producer, row.name, row.step, to_datetime(row.time), row.text)
        found.setdefault((row.producer, row.name), value)
    return sorted(found.values(), key=lambda one: (one.producer != RANK_0, one.producer, one.name))


def to_event_row(row: Any) -> EventRow:
    """The record of a row of ``events`` with its producer and attempt."""
    return EventRow(
        n=row.n,
        producer=row.producer,
        attempt=row.attempt,
        seq=row.seq,
        kind=row.kind,
        step=row.step,
        epoch=row.epoch,
        time=to_datetime(row.time),
        control=row.control,
        data=from_json(row.data),
        problem=row.problem,
    )
