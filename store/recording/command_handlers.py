"""Folds a command to a run and the answers to it into one row.

Both come in several streams, so an answer may be recorded before its command. The row is the same
in every order: of several answers the one with the highest precedence counts, because a process
that applied a command knows more than one that got no answer. Of a command that was sent twice, the
first in the journal counts, whatever its time: the training executed that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update

from lineside.bus.protocol import commands as bus
from lineside.bus.protocol.events import is_rank
from lineside.bus.protocol.fields import is_timestamp
from lineside.store.database.tables import commands
from lineside.store.database.values import from_json, is_finite_number, sanitize_text, to_json
from lineside.store.recording.audit import add_entry, set_issuer
from lineside.store.recording.event_context import (
    EventContext,
    Handlers,
    InvalidEventData,
    optional_text,
)
from lineside.store.recording.run_cache import RunCache

_PRECEDENCE = {
    name: precedence
    for precedence, name in enumerate(
        ("requested", "delivered", "expired", "rejected", "superseded", "applied")
    )
}
_ID_LENGTH = 64
_TEXT_LENGTH = 1000
_OP_LENGTH = 100


class CommandHandlers:
    """Writes events of control streams into ``commands`` and the audit."""

    def __init__(self, cache: RunCache) -> None:
        self._cache = cache
        answers = [kind for kind in bus.STATE_OF_KIND if kind != bus.COMMAND]
        self.handlers: Handlers = {
            bus.COMMAND: self._on_command,
            **dict.fromkeys(answers, self._on_answer),
        }

    def _on_command(self, context: EventContext) -> None:
        if context.stream.producer != bus.CONTROL_PRODUCER:
            raise InvalidEventData(f"a command counts only in a stream of {bus.CONTROL_PRODUCER!r}")
        command_id, event_time = _command_id(context), context.event.time
        fields = _command_fields(context.data)
        action = _action(fields["op"], fields["args"])
        stored = self._stored_row(context, command_id)
        if stored is None:
            self._insert(context, command_id, state="requested", requested_at=event_time, **fields)
        elif stored["requested_at"] is None:
            self._update(
                context,
                command_id,
                requested_at=event_time,
                told_at=min(event_time, stored["told_at"]),
                **fields,
            )
            set_issuer(
                self._cache.connection, context.run.id, command_id, fields["issued_by"], action
            )
        add_entry(
            self._cache.connection,
            time=event_time,
            who=fields["issued_by"],
            action=action,
            target=context.run.id,
            outcome="requested",
            why=fields["reason"] or None,
            run=context.run.id,
            command=command_id,
        )

    def _on_answer(self, context: EventContext) -> None:
        # Rank 0 answers for all; the other ranks confirm in streams of their own.
        if is_rank(context.stream.producer):
            return
        if context.stream.producer != bus.CONTROL_PRODUCER:
            raise InvalidEventData(f"an answer counts only in a stream of {bus.CONTROL_PRODUCER!r}")
        command_id, event_time = _command_id(context), context.event.time
        state = bus.STATE_OF_KIND[context.event.kind]
        stored = self._stored_row(context, command_id)
        answer: dict[str, Any] = {
            "state": state,
            "settled_at": event_time if context.event.kind in bus.FINAL_KINDS else None,
            "attempt": context.stream.attempt,
            "step": context.event.step,
            "detail": sanitize_text(bus.detail(context.data), _TEXT_LENGTH) or None,
        }
        delivered = event_time if context.event.kind == bus.DELIVERED else None
        op = optional_text(context.data, "op", _OP_LENGTH)
        if stored is None:
            self._insert(context, command_id, op=op, delivered_at=delivered, **answer)
        else:
            changes = answer if _takes_precedence(answer, event_time, stored) else {}
            times = [at for at in (delivered, stored["delivered_at"]) if at is not None]
            self._update(
                context,
                command_id,
                op=stored["op"] or op,
                delivered_at=min(times, default=None),
                told_at=min(event_time, stored["told_at"]),
                **changes,
            )
        add_entry(
            self._cache.connection,
            time=event_time,
            who=stored["issued_by"] if stored else None,
            action=_action(stored["op"] or op or "", stored["args"]) if stored else op,
            target=context.run.id,
            outcome=state,
            why=answer["detail"],
            run=context.run.id,
            command=command_id,
        )

    def _stored_row(self, context: EventContext, command_id: str) -> dict[str, Any] | None:
        query = select(commands).where(
            commands.c.run_key == context.run.key, commands.c.id == command_id
        )
        row = self._cache.connection.execute(query).first()
        return None if row is None else dict(row._mapping)

    def _insert(self, context: EventContext, command_id: str, **values: Any) -> None:
        fixed = {"run_key": context.run.key, "id": command_id, "told_at": context.event.time}
        self._cache.connection.execute(insert(commands).values(**fixed, **values))

    def _update(self, context: EventContext, command_id: str, **values: Any) -> None:
        self._cache.connection.execute(
            update(commands)
            .where(commands.c.run_key == context.run.key, commands.c.id == command_id)
            .values(**values)
        )


def _command_id(context: EventContext) -> str:
    found = context.data.get("id")
    if not isinstance(found, str) or not found or sanitize_text(found, _ID_LENGTH) != found:
        raise InvalidEventData(f"id {found!r:.100} is no text of 1 to {_ID_LENGTH} characters")
    return found


def _command_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    op, args, expires = data.get("op"), data.get("args"), data.get("expires_at")
    if not isinstance(op, str):
        raise InvalidEventData(f"op {op!r:.100} is no text")
    return {
        "op": sanitize_text(op, _OP_LENGTH),
        "args": to_json(args if isinstance(args, Mapping) else {}),
        "reason": optional_text(data, "reason", _TEXT_LENGTH) or "",
        "issued_by": optional_text(data, "issued_by", _TEXT_LENGTH) or "",
        "expires_at": float(expires)
        if is_finite_number(expires) and is_timestamp(expires)
        else None,
    }


def _action(op: str, args: str | None) -> str:
    return sanitize_text(bus.describe_request(op, from_json(args) or {}), _TEXT_LENGTH)


def _takes_precedence(
    answer: Mapping[str, Any], event_time: float, stored: Mapping[str, Any]
) -> bool:
    """Whether ``answer`` replaces the stored one; with equal precedence, the earlier one wins."""
    precedence, before = _PRECEDENCE[answer["state"]], _PRECEDENCE[stored["state"]]
    if precedence != before or before == 0:
        return precedence > before
    stored_time = (
        stored["settled_at"] if stored["settled_at"] is not None else stored["delivered_at"]
    )
    candidate = (event_time, answer["attempt"], answer["step"], answer["detail"] or "")
    return candidate < (stored_time, stored["attempt"], stored["step"], stored["detail"] or "")
