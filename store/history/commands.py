"""Reading commands to a run as they stand at a moment."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, or_, select

from lineside.bus.protocol.commands import GRACE_SECONDS
from lineside.store.database.tables import commands
from lineside.store.database.values import from_json, to_datetime
from lineside.store.history.records import Command, Page
from lineside.store.history.run_list import decode_time_cursor, encode_cursor

_SORT = "commands"
EXPIRED_DETAIL = "nobody took it in time"
_NO_ANSWER = "no answer to it has come, so whether it was applied is not known"


def read_commands(
    connection: Connection, key: int, now: float, limit: int, cursor: str | None
) -> Page[Command]:
    """The run's newest commands first, as of ``now`` (seconds since the epoch).

    Raises:
        UsageError: a cursor that does not exist.
    """
    query = (
        select(commands)
        .where(commands.c.run_key == key)
        .order_by(commands.c.told_at.desc(), commands.c.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        time, name = decode_time_cursor(cursor, _SORT)
        first_seen = commands.c.told_at
        query = query.where(or_(first_seen < time, and_(first_seen == time, commands.c.id < name)))
    found = connection.execute(query).all()
    page = found[:limit]
    after = encode_cursor(_SORT, page[-1].told_at, page[-1].id) if len(found) > limit else None
    return Page(tuple(_command(row, now) for row in page), after)


def read_command(connection: Connection, key: int, name: str, now: float) -> Command | None:
    """One command; None if the run has none of this id."""
    row = connection.execute(
        select(commands).where(commands.c.run_key == key, commands.c.id == name)
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
        requested_at=_optional_datetime(row.requested_at),
        expires_at=_optional_datetime(row.expires_at),
        state=state,
        delivered_at=_optional_datetime(row.delivered_at),
        settled_at=_optional_datetime(row.settled_at),
        attempt=row.attempt,
        step=row.step,
        detail=detail,
    )


def _optional_datetime(seconds: float | None) -> Any:
    return None if seconds is None else to_datetime(seconds)
