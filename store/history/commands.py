"""Reads commands to a run, with their states as of a given time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, or_, select

from lineside.bus.protocol.commands import GRACE_SECONDS
from lineside.store.database.expired_commands import EXPIRED_DETAIL
from lineside.store.database.tables import commands
from lineside.store.database.values import from_json, to_optional_datetime
from lineside.store.history.cursor import cut_page, decode_time_cursor
from lineside.store.history.records import Command, Page

_SORT = "commands"
_NO_ANSWER = "no answer to it has come, so whether it was applied is not known"


def read_commands(
    connection: Connection, key: int, now: float, limit: int, cursor: str | None
) -> Page[Command]:
    """The run's newest commands first, as of ``now`` (seconds since the epoch).

    Raises:
        UsageError: ``cursor`` is not one of this list.
    """
    query = (
        select(commands)
        .where(commands.c.run_key == key)
        .order_by(commands.c.told_at.desc(), commands.c.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        time, last_id = decode_time_cursor(cursor, _SORT)
        is_same = and_(commands.c.told_at == time, commands.c.id < last_id)
        query = query.where(or_(commands.c.told_at < time, is_same))
    found = connection.execute(query).all()
    page, after = cut_page(found, limit, _SORT, lambda row: (row.told_at, row.id))
    return Page(tuple(_command(row, now) for row in page), after)


def read_command(connection: Connection, key: int, command_id: str, now: float) -> Command | None:
    """One command; None if the run has none with this id."""
    row = connection.execute(
        select(commands).where(commands.c.run_key == key, commands.c.id == command_id)
    ).first()
    return None if row is None else _command(row, now)


def _command(row: Any, now: float) -> Command:
    state, detail = row.state, row.detail or ""
    if row.expires_at is not None and row.expires_at + GRACE_SECONDS < now:
        if state == "requested":
            state, detail = "expired", EXPIRED_DETAIL
        elif state == "delivered":
            detail = _NO_ANSWER
    return Command(
        id=row.id,
        op=row.op,
        args=from_json(row.args) or {},
        reason=row.reason or "",
        issued_by=row.issued_by or "",
        requested_at=to_optional_datetime(row.requested_at),
        expires_at=to_optional_datetime(row.expires_at),
        state=state,
        delivered_at=to_optional_datetime(row.delivered_at),
        settled_at=to_optional_datetime(row.settled_at),
        attempt=row.attempt,
        step=row.step,
        detail=detail,
    )
