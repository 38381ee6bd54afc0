"""Who asked for what, and what came of it: rows that stay when their run is deleted.

Brokers and dashboards publish whom they refused in streams of the reserved run ``audit``; what
became of commands is written here by ``store.conversation``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    insert,
    literal,
    or_,
    select,
    update,
)

from lineside.bus.protocol.commands import GRACE_SECONDS
from lineside.bus.protocol.event_kinds import REFUSED
from lineside.bus.protocol.events import is_run_id
from lineside.store.database import tables
from lineside.store.database.values import is_int64, sanitize_text, to_datetime
from lineside.store.history.commands import EXPIRED_DETAIL
from lineside.store.history.records import AuditEntry, Page
from lineside.store.history.run_list import decode_time_cursor, encode_cursor
from lineside.store.recording.event_handlers import EventContext, InvalidEventData

_SORT = "audit"
_TEXT_LENGTH = 1000
_ENTRY_COLUMNS = tuple(column.name for column in tables.audit.columns if not column.primary_key)
REFUSALS_KEPT = 100_000
"""The newest rows about refusals, which stay; what was asked for stays for ever."""
_PRUNE_EVERY = 1000  # rows


def add_entry(connection: Connection, **values: Any) -> None:
    """Write a row; ``role`` and ``count`` are unknown and 1 unless given."""
    row = insert(tables.audit).values(**{"count": 1, **values})
    inserted_key = connection.execute(row).inserted_primary_key
    if inserted_key is not None and inserted_key[0] % _PRUNE_EVERY == 0:
        _prune(connection)


def set_issuer(connection: Connection, run: str, command: str, who: str, action: str) -> None:
    """Write into the answers to a command that came before it who had asked, and for what."""
    audit = tables.audit.c
    connection.execute(
        update(tables.audit)
        .where(audit.run == run, audit.command == command, audit.who.is_(None))
        .values(who=who, action=action)
    )


def add_expired_entries(connection: Connection, run: str, now: float) -> None:
    """Write what ``read_audit`` tells of the run's commands that nobody took: they go with it."""
    query, _ = _expired_entries(now)
    for row in connection.execute(query.where(tables.audit.c.run == run)).all():
        add_entry(connection, **{name: row._mapping[name] for name in _ENTRY_COLUMNS})


def add_refusal(connection: Connection, context: EventContext) -> None:
    """Write a row of an event of the run ``audit`` that says who was refused.

    Raises:
        Unreadable: it does not say so.
    """
    if context.event.kind != REFUSED:
        return
    fields = {name: _text(context, name) for name in ("who", "role", "action", "target", "why")}
    count = context.data.get("count")
    add_entry(
        connection,
        time=context.event.time,
        outcome=REFUSED,
        count=count if is_int64(count) and count > 0 else 1,
        run=_run_in(fields["target"]),
        **fields,
    )


def read_audit(
    connection: Connection, run: str | None, now: float, limit: int, cursor: str | None
) -> Page[AuditEntry]:
    """The newest entries first, of one run or of everything, as of ``now`` (seconds since the
    epoch).

    Raises:
        UsageError: a cursor that does not exist.
    """
    found: list[Any] = []
    for query, time in ((select(tables.audit), tables.audit.c.time), _expired_entries(now)):
        key = tables.audit.c.key
        if run is not None:
            query = query.where(tables.audit.c.run == sanitize_text(run))
        if cursor is not None:
            last, text = decode_time_cursor(cursor, _SORT)
            last_key = int(text) if text.isdecimal() and len(text) < 19 else 0
            query = query.where(or_(time < last, and_(time == last, key < last_key)))
        found += connection.execute(query.order_by(time.desc(), key.desc()).limit(limit + 1))
    found.sort(key=lambda row: (row.time, row.key), reverse=True)
    page = found[:limit]
    after = encode_cursor(_SORT, page[-1].time, str(page[-1].key)) if len(found) > limit else None
    return Page(tuple(_entry(row) for row in page), after)


def _expired_entries(now: float) -> tuple[Select[Any], ColumnElement[float]]:
    """Entries that nobody was there to write, made of those of the commands themselves; their
    time."""
    audit, commands, time = tables.audit.c, tables.commands.c, tables.commands.c.expires_at
    other = tables.audit.alias()
    earlier = select(other.c.key).where(
        other.c.run == audit.run, other.c.command == audit.command, other.c.key < audit.key
    )
    computed = {"time": time, "outcome": literal("expired"), "why": literal(EXPIRED_DETAIL)}
    columns = [
        computed[c.name].label(c.name) if c.name in computed else c for c in tables.audit.columns
    ]
    query = (
        select(*columns)
        .join(tables.runs, tables.runs.c.id == audit.run)
        .join(
            tables.commands,
            and_(commands.run_key == tables.runs.c.key, commands.id == audit.command),
        )
        .where(commands.state == "requested", time < now - GRACE_SECONDS, ~earlier.exists())
    )
    return query, time


def _prune(connection: Connection) -> None:
    audit = tables.audit.c
    refusals = select(audit.key).where(audit.outcome == REFUSED)
    oldest = connection.scalar(refusals.order_by(audit.key.desc()).offset(REFUSALS_KEPT).limit(1))
    if oldest is not None:
        old = delete(tables.audit).where(audit.outcome == REFUSED, audit.key <= oldest)
        connection.execute(old)


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        time=to_datetime(row.time),
        who=row.who or "",
        role=row.role or "",
        action=row.action or "",
        target=row.target,
        outcome=row.outcome,
        why=row.why or "",
        count=row.count,
        run=row.run,
        command=row.command,
    )


def _text(context: EventContext, name: str) -> str:
    value = context.data.get(name, "")
    if not isinstance(value, str):
        raise InvalidEventData(f"{name} {value!r:.100} is no text")
    return sanitize_text(value, _TEXT_LENGTH)


def _run_in(target: str) -> str | None:
    """The run that a stream, a pattern or a path of the dashboard's is about."""
    parts = target.split("/")
    if target.startswith("/"):
        parts = parts[parts.index("runs") + 1 :] if "runs" in parts else []
    return parts[0] if parts and is_run_id(parts[0]) else None
