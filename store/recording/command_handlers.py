"""What is said about commands to a run: the command itself, and the answers to it, as one row.

They come from several streams, so an answer may be recorded before its command. Whatever their
order, the row is the same: of several answers the one that says most stands, because whoever did a
thing knows better than who only heard nothing. A command sent twice is as it was recorded first,
whenever its sender says that was: so stands it in the journal, and so the training took it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update

from lineside.bus.protocol import commands as bus
from lineside.store.database.tables import commands
from lineside.store.database.values import (
    from_json,
    is_finite_number,
    is_timestamp,
    sanitize_text,
    to_json,
)
from lineside.store.recording.audit import add_entry, set_issuer
from lineside.store.recording.event_handlers import EventContext, Handlers, InvalidEventData
from lineside.store.recording.run_cache import RunCache
from lineside.store.recording.run_state import is_rank

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
    """Reads the events of control streams into ``commands``, and each into the audit."""

    def __init__(self, ledger: RunCache) -> None:
        self._cache = ledger
        answers = [kind for kind in bus.STATE_OF_KIND if kind != bus.COMMAND]
        self.handlers: Handlers = {
            bus.COMMAND: self._on_command,
            **dict.fromkeys(answers, self._on_answer),
        }

    def _on_command(self, context: EventContext) -> None:
        if _text(context.data, "op") in bus.INTERNAL_OPS:
            return
        if context.stream.producer != bus.CONTROL_PRODUCER:
            raise InvalidEventData(f"a command counts only in a stream of {bus.CONTROL_PRODUCER!r}")
        name, fields, event_time = (
            _command_id(context),
            _command_fields(context.data),
            context.event.time,
        )
        action = _action(fields["op"], fields["args"])
        stored = self._stored_row(context, name)
        if stored is None:
            self._insert(context, name, state="requested", requested_at=event_time, **fields)
        elif stored["requested_at"] is None:
            self._update(
                context,
                name,
                requested_at=event_time,
                told_at=min(event_time, stored["told_at"]),
                **fields,
            )
            set_issuer(self._cache.connection, context.run.id, name, fields["issued_by"], action)
        add_entry(
            self._cache.connection,
            time=event_time,
            who=fields["issued_by"],
            action=action,
            target=context.run.id,
            outcome="requested",
            why=fields["reason"] or None,
            run=context.run.id,
            command=name,
        )

    def _on_answer(self, context: EventContext) -> None:
        # Rank 0 answers for all; the others say in streams of their own that they followed.
        if _text(context.data, "op") in bus.INTERNAL_OPS or is_rank(context.stream.producer):
            return
        if context.stream.producer != bus.CONTROL_PRODUCER:
            raise InvalidEventData(f"an answer counts only in a stream of {bus.CONTROL_PRODUCER!r}")
        name, state, event_time = (
            _command_id(context),
            bus.STATE_OF_KIND[context.event.kind],
            context.event.time,
        )
        stored = self._stored_row(context, name)
        answer: dict[str, Any] = {
            "state": state,
            "settled_at": event_time if context.event.kind in bus.FINAL_KINDS else None,
            "attempt": context.stream.attempt,
            "step": context.event.step,
            "detail": sanitize_text(bus.detail(context.data), _TEXT_LENGTH) or None,
        }
        delivered = event_time if context.event.kind == bus.DELIVERED else None
        op = _text(context.data, "op", _OP_LENGTH)
        if stored is None:
            self._insert(context, name, op=op, delivered_at=delivered, **answer)
        else:
            changes = answer if _takes_precedence(answer, event_time, stored) else {}
            times = [at for at in (delivered, stored["delivered_at"]) if at is not None]
            self._update(
                context,
                name,
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
            command=name,
        )

    def _stored_row(self, context: EventContext, name: str) -> dict[str, Any] | None:
        query = select(commands).where(commands.c.run_key == context.run.key, commands.c.id == name)
        row = self._cache.connection.execute(query).first()
        return None if row is None else dict(row._mapping)

    def _insert(self, context: EventContext, name: str, **values: Any) -> None:
        fixed = {"run_key": context.run.key, "id": name, "told_at": context.event.time}
        self._cache.connection.execute(insert(commands).values(**fixed, **values))

    def _update(self, context: EventContext, name: str, **values: Any) -> None:
        self._cache.connection.execute(
            update(commands)
            .where(commands.c.run_key == context.run.key, commands.c.id == name)
            .values(**values)
        )


def _command_id(context: EventContext) -> str:
    name = context.data.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= _ID_LENGTH or sanitize_text(name) != name:
        raise InvalidEventData(f"id {name!r:.100} is no text of 1 to {_ID_LENGTH} characters")
    return name


def _command_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    op, args, expires = data.get("op"), data.get("args"), data.get("expires_at")
    if not isinstance(op, str):
        raise InvalidEventData(f"op {op!r:.100} is no text")
    return {
        "op": sanitize_text(op, _OP_LENGTH),
        "args": to_json(args if isinstance(args, Mapping) else {}),
        "reason": _text(data, "reason") or "",
        "issued_by": _text(data, "issued_by") or "",
        "expires_at": float(expires)
        if is_finite_number(expires) and is_timestamp(expires)
        else None,
    }


def _action(op: str, args: str | None) -> str:
    return sanitize_text(bus.describe_request(op, from_json(args) or {}), _TEXT_LENGTH)


def _takes_precedence(
    answer: Mapping[str, Any], event_time: float, stored: Mapping[str, Any]
) -> bool:
    """Whether an answer of time ``now`` stands before the one known; of equals the first does."""
    precedence, before = _PRECEDENCE[answer["state"]], _PRECEDENCE[stored["state"]]
    if precedence != before or before == 0:
        return precedence > before
    stored_time = (
        stored["settled_at"] if stored["settled_at"] is not None else stored["delivered_at"]
    )
    candidate = (event_time, answer["attempt"], answer["step"], answer["detail"] or "")
    return candidate < (stored_time, stored["attempt"], stored["step"], stored["detail"] or "")


def _text(data: Mapping[str, Any], name: str, limit: int = _TEXT_LENGTH) -> str | None:
    value = data.get(name)
    return sanitize_text(value, limit) if isinstance(value, str) and value else None
