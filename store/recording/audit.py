"""Writes the audit: who asked for what, and the outcome. Its rows outlive their run.

Brokers and dashboards publish refusals in streams of the reserved run ``audit``; the command
handlers add an entry for each state of a command.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from lineside.bus.protocol.event_kinds import REFUSED
from lineside.bus.protocol.events import is_run_id
from lineside.bus.protocol.fields import is_int64
from lineside.store.database import tables
from lineside.store.database.expired_commands import expired_entries
from lineside.store.database.values import sanitize_text
from lineside.store.recording.event_context import EventContext, InvalidEventData

_TEXT_LENGTH = 1000
_ENTRY_COLUMNS = tuple(column.name for column in tables.audit.columns if not column.primary_key)
REFUSALS_KEPT = 100_000
"""The newest entries about refusals that stay; entries about commands stay for ever."""
_PRUNE_EVERY = 1000  # rows


def add_entry(connection: Connection, **values: Any) -> None:
    """Insert an entry; ``count`` defaults to 1 and ``role`` to unknown."""
    row = insert(tables.audit).values(**{"count": 1, **values})
    inserted_key = connection.execute(row).inserted_primary_key
    if inserted_key is not None and inserted_key[0] % _PRUNE_EVERY == 0:
        _prune(connection)


def set_issuer(connection: Connection, run: str, command: str, who: str, action: str) -> None:
    """Complete the entries about answers that were recorded before their command."""
    audit = tables.audit.c
    connection.execute(
        update(tables.audit)
        .where(audit.run == run, audit.command == command, audit.who.is_(None))
        .values(who=who, action=action)
    )


def add_expired_entries(connection: Connection, run: str, now: float) -> None:
    """Store the entries that ``expired_entries`` computes from rows that go with their run."""
    query, _ = expired_entries(now)
    for row in connection.execute(query.where(tables.audit.c.run == run)).all():
        add_entry(connection, **{name: row._mapping[name] for name in _ENTRY_COLUMNS})


def add_refusal(connection: Connection, context: EventContext) -> None:
    """Insert an entry for a ``refused`` event of the run ``audit``; other kinds are ignored.

    Raises:
        InvalidEventData: a field is no text.
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


def _prune(connection: Connection) -> None:
    audit = tables.audit.c
    refusals = select(audit.key).where(audit.outcome == REFUSED)
    oldest = connection.scalar(refusals.order_by(audit.key.desc()).offset(REFUSALS_KEPT).limit(1))
    if oldest is not None:
        old = delete(tables.audit).where(audit.outcome == REFUSED, audit.key <= oldest)
        connection.execute(old)


def _text(context: EventContext, name: str) -> str:
    value = context.data.get(name, "")
    if not isinstance(value, str):
        raise InvalidEventData(f"{name} {value!r:.100} is no text")
    return sanitize_text(value, _TEXT_LENGTH)


def _run_in(target: str) -> str | None:
    """The run in the name of a stream, a pattern or a path of the dashboard."""
    parts = target.split("/")
    if target.startswith("/"):
        parts = parts[parts.index("runs") + 1 :] if "runs" in parts else []
    return parts[0] if parts and is_run_id(parts[0]) else None
