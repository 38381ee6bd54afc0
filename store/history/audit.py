"""Reads the audit: who asked for what, and the outcome."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, or_, select

from lineside.store.database import tables
from lineside.store.database.expired_commands import expired_entries
from lineside.store.database.values import sanitize_text, to_datetime
from lineside.store.history.cursor import cut_page, decode_time_cursor
from lineside.store.history.records import AuditEntry, Page

_SORT = "audit"


def read_audit(
    connection: Connection, run: str | None, now: float, limit: int, cursor: str | None
) -> Page[AuditEntry]:
    """The newest entries first, of one run or of all, as of ``now`` (seconds since the epoch).

    Raises:
        UsageError: ``cursor`` is not one of this list.
    """
    found: list[Any] = []
    for query, time in ((select(tables.audit), tables.audit.c.time), expired_entries(now)):
        key = tables.audit.c.key
        if run is not None:
            query = query.where(tables.audit.c.run == sanitize_text(run))
        if cursor is not None:
            last, text = decode_time_cursor(cursor, _SORT)
            last_key = int(text) if text.isdecimal() and len(text) < 19 else 0
            query = query.where(or_(time < last, and_(time == last, key < last_key)))
        found += connection.execute(query.order_by(time.desc(), key.desc()).limit(limit + 1))
    found.sort(key=lambda row: (row.time, row.key), reverse=True)
    page, after = cut_page(found, limit, _SORT, lambda row: (row.time, str(row.key)))
    return Page(tuple(_entry(row) for row in page), after)


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
