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
from lineside.bus.protocol.events import REFUSED, is_run_id
from lineside.store.database import schema
from lineside.store.database.values import at, clean, is_count
from lineside.store.history.commands import NOBODY
from lineside.store.history.listing import make_cursor, read_time_cursor
from lineside.store.history.records import AuditEntry, Page
from lineside.store.recording.meaning import Seen, Unreadable

_SORT = "audit"
_TEXT_LENGTH = 1000
_SAID = tuple(column.name for column in schema.audit.columns if not column.primary_key)
REFUSALS_KEPT = 100_000
"""The newest rows about refusals, which stay; what was asked for stays for ever."""
_PRUNE_EVERY = 1000  # rows


def add_entry(connection: Connection, **values: Any) -> None:
    """Write a row; ``role`` and ``count`` are unknown and 1 unless given."""
    row = insert(schema.audit).values(**{"count": 1, **values})
    made = connection.execute(row).inserted_primary_key
    if made is not None and made[0] % _PRUNE_EVERY == 0:
        _prune(connection)


def name_issuer(connection: Connection, run: str, command: str, who: str, action: str) -> None:
    """Write into the answers to a command that came before it who had asked, and for what."""
    audit = schema.audit.c
    connection.execute(
        update(schema.audit)
        .where(audit.run == run, audit.command == command, audit.who.is_(None))
        .values(who=who, action=action)
    )


def keep_expired(connection: Connection, run: str, now: float) -> None:
    """Write what ``read_audit`` tells of the run's commands that nobody took: they go with it."""
    query, _ = _expired(now)
    for row in connection.execute(query.where(schema.audit.c.run == run)).all():
        add_entry(connection, **{name: row._mapping[name] for name in _SAID})


def read_refusal(connection: Connection, seen: Seen) -> None:
    """Write a row of an event of the run ``audit`` that says who was refused.

    Raises:
        Unreadable: it does not say so.
    """
    if seen.event.kind != REFUSED:
        return
    said = {name: _text(seen, name) for name in ("who", "role", "action", "target", "why")}
    count = seen.data.get("count")
    add_entry(
        connection,
        time=seen.event.time,
        outcome=REFUSED,
        count=count if is_count(count) and count > 0 else 1,
        run=_run_in(said["target"]),
        **said,
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
    for query, time in ((select(schema.audit), schema.audit.c.time), _expired(now)):
        key = schema.audit.c.key
        if run is not None:
            query = query.where(schema.audit.c.run == clean(run))
        if cursor is not None:
            last, text = read_time_cursor(cursor, _SORT)
            last_key = int(text) if text.isdecimal() and len(text) < 19 else 0
            query = query.where(or_(time < last, and_(time == last, key < last_key)))
        found += connection.execute(query.order_by(time.desc(), key.desc()).limit(limit + 1))
    found.sort(key=lambda row: (row.time, row.key), reverse=True)
    page = found[:limit]
    after = make_cursor(_SORT, page[-1].time, str(page[-1].key)) if len(found) > limit else None
    return Page(tuple(_entry(row) for row in page), after)


def _expired(now: float) -> tuple[Select[Any], ColumnElement[float]]:
    """Entries that nobody was there to write, made of those of the commands themselves; their
    time."""
    audit, commands, time = schema.audit.c, schema.commands.c, schema.commands.c.expires_at
    again = schema.audit.alias()
    earlier = select(again.c.key).where(
        again.c.run == audit.run, again.c.command == audit.command, again.c.key < audit.key
    )
    told = {"time": time, "outcome": literal("expired"), "why": literal(NOBODY)}
    columns = [told[c.name].label(c.name) if c.name in told else c for c in schema.audit.columns]
    query = (
        select(*columns)
        .join(schema.runs, schema.runs.c.id == audit.run)
        .join(
            schema.commands,
            and_(commands.run_key == schema.runs.c.key, commands.id == audit.command),
        )
        .where(commands.state == "requested", time < now - GRACE_SECONDS, ~earlier.exists())
    )
    return query, time


def _prune(connection: Connection) -> None:
    audit = schema.audit.c
    refusals = select(audit.key).where(audit.outcome == REFUSED)
    oldest = connection.scalar(refusals.order_by(audit.key.desc()).offset(REFUSALS_KEPT).limit(1))
    if oldest is not None:
        old = delete(schema.audit).where(audit.outcome == REFUSED, audit.key <= oldest)
        connection.execute(old)


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        time=at(row.time),
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


def _text(seen: Seen, name: str) -> str:
    value = seen.data.get(name, "")
    if not isinstance(value, str):
        raise Unreadable(f"{name} {value!r:.100} is no text")
    return clean(value, _TEXT_LENGTH)


def _run_in(target: str) -> str | None:
    """The run that a stream, a pattern or a path of the dashboard's is about."""
    parts = target.split("/")
    if target.startswith("/"):
        parts = parts[parts.index("runs") + 1 :] if "runs" in parts else []
    return parts[0] if parts and is_run_id(parts[0]) else None
