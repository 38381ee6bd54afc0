"""Who asked for what, and what came of it: rows that stay when their run is deleted.

Brokers and dashboards publish whom they refused in streams of the reserved run ``audit``; what
became of commands is written here by ``store.conversation``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from lineside.bus.events import REFUSED, is_run_id
from lineside.store import schema
from lineside.store.listing import make_cursor, read_time_cursor
from lineside.store.meaning import Seen, Unreadable
from lineside.store.records import AuditEntry, Page
from lineside.store.values import at, clean, is_count

_SORT = "audit"
_TEXT_LENGTH = 1000
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
    connection: Connection, run: str | None, limit: int, cursor: str | None
) -> Page[AuditEntry]:
    """The newest entries first, of one run or of everything.

    Raises:
        UsageError: a cursor that does not exist.
    """
    audit = schema.audit.c
    query = select(schema.audit).order_by(audit.time.desc(), audit.key.desc()).limit(limit + 1)
    if run is not None:
        query = query.where(audit.run == clean(run))
    if cursor is not None:
        time, text = read_time_cursor(cursor, _SORT)
        key = int(text) if text.isdecimal() and len(text) < 19 else 0
        query = query.where(or_(audit.time < time, and_(audit.time == time, audit.key < key)))
    found = connection.execute(query).all()
    page = found[:limit]
    after = make_cursor(_SORT, page[-1].time, str(page[-1].key)) if len(found) > limit else None
    return Page(tuple(_entry(row) for row in page), after)


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
