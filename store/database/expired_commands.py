"""Audit entries for commands that expired before any training took them, computed on read."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, literal, select

from lineside.bus.protocol.commands import GRACE_SECONDS
from lineside.store.database import tables

EXPIRED_DETAIL = "no training took it in time"


def expired_entries(now: float) -> tuple[Select[Any], ColumnElement[float]]:
    """A query for these entries as rows of ``audit``, and the expression for their time.

    No process records that such a command expired, so the entry derives from its first one.
    """
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
