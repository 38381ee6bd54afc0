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
from lineside.store.database.schema import commands
from lineside.store.database.values import clean, from_json, is_number, is_time, to_json
from lineside.store.recording.audit import add_entry, name_issuer
from lineside.store.recording.ledger import Ledger
from lineside.store.recording.meaning import Handlers, Seen, Unreadable
from lineside.store.recording.states import is_rank

_WEIGHT = {
    name: weight
    for weight, name in enumerate(
        ("requested", "delivered", "expired", "rejected", "superseded", "applied")
    )
}
_ID_LENGTH = 64
_TEXT_LENGTH = 1000
_OP_LENGTH = 100


class Conversation:
    """Reads the events of control streams into ``commands``, and each into the audit."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        answers = [kind for kind in bus.STATES if kind != bus.COMMAND]
        self.handlers: Handlers = {
            bus.COMMAND: self._on_command,
            **dict.fromkeys(answers, self._on_answer),
        }

    def _on_command(self, seen: Seen) -> None:
        if _text(seen.data, "op") in bus.UNTOLD:
            return
        if seen.stream.producer != bus.PRODUCER:
            raise Unreadable(f"a command counts only in a stream of {bus.PRODUCER!r}")
        name, said, now = _id(seen), _content(seen.data), seen.event.time
        action = _action(said["op"], said["args"])
        known = self._known(seen, name)
        if known is None:
            self._make(seen, name, state="requested", requested_at=now, **said)
        elif known["requested_at"] is None:
            self._change(seen, name, requested_at=now, told_at=min(now, known["told_at"]), **said)
            name_issuer(self._ledger.connection, seen.run.id, name, said["issued_by"], action)
        add_entry(
            self._ledger.connection,
            time=now,
            who=said["issued_by"],
            action=action,
            target=seen.run.id,
            outcome="requested",
            why=said["reason"] or None,
            run=seen.run.id,
            command=name,
        )

    def _on_answer(self, seen: Seen) -> None:
        # Rank 0 answers for all; the others say in streams of their own that they followed.
        if _text(seen.data, "op") in bus.UNTOLD or is_rank(seen.stream.producer):
            return
        if seen.stream.producer != bus.PRODUCER:
            raise Unreadable(f"an answer counts only in a stream of {bus.PRODUCER!r}")
        name, state, now = _id(seen), bus.STATES[seen.event.kind], seen.event.time
        known = self._known(seen, name)
        answer: dict[str, Any] = {
            "state": state,
            "settled_at": now if seen.event.kind in bus.FINAL else None,
            "attempt": seen.stream.attempt,
            "step": seen.event.step,
            "detail": clean(bus.detail(seen.data), _TEXT_LENGTH) or None,
        }
        delivered = now if seen.event.kind == bus.DELIVERED else None
        op = _text(seen.data, "op", _OP_LENGTH)
        if known is None:
            self._make(seen, name, op=op, delivered_at=delivered, **answer)
        else:
            changes = answer if _says_more(answer, now, known) else {}
            times = [at for at in (delivered, known["delivered_at"]) if at is not None]
            self._change(
                seen,
                name,
                op=known["op"] or op,
                delivered_at=min(times, default=None),
                told_at=min(now, known["told_at"]),
                **changes,
            )
        add_entry(
            self._ledger.connection,
            time=now,
            who=known["issued_by"] if known else None,
            action=_action(known["op"] or op or "", known["args"]) if known else op,
            target=seen.run.id,
            outcome=state,
            why=answer["detail"],
            run=seen.run.id,
            command=name,
        )

    def _known(self, seen: Seen, name: str) -> dict[str, Any] | None:
        query = select(commands).where(commands.c.run_key == seen.run.key, commands.c.id == name)
        row = self._ledger.connection.execute(query).first()
        return None if row is None else dict(row._mapping)

    def _make(self, seen: Seen, name: str, **values: Any) -> None:
        fixed = {"run_key": seen.run.key, "id": name, "told_at": seen.event.time}
        self._ledger.connection.execute(insert(commands).values(**fixed, **values))

    def _change(self, seen: Seen, name: str, **values: Any) -> None:
        self._ledger.connection.execute(
            update(commands)
            .where(commands.c.run_key == seen.run.key, commands.c.id == name)
            .values(**values)
        )


def _id(seen: Seen) -> str:
    name = seen.data.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= _ID_LENGTH or clean(name) != name:
        raise Unreadable(f"id {name!r:.100} is no text of 1 to {_ID_LENGTH} characters")
    return name


def _content(data: Mapping[str, Any]) -> dict[str, Any]:
    op, args, expires = data.get("op"), data.get("args"), data.get("expires_at")
    if not isinstance(op, str):
        raise Unreadable(f"op {op!r:.100} is no text")
    return {
        "op": clean(op, _OP_LENGTH),
        "args": to_json(args if isinstance(args, Mapping) else {}),
        "reason": _text(data, "reason") or "",
        "issued_by": _text(data, "issued_by") or "",
        "expires_at": float(expires) if is_number(expires) and is_time(expires) else None,
    }


def _action(op: str, args: str | None) -> str:
    return clean(bus.wanted(op, from_json(args) or {}), _TEXT_LENGTH)


def _says_more(answer: Mapping[str, Any], now: float, known: Mapping[str, Any]) -> bool:
    """Whether an answer of time ``now`` stands before the one known; of equals the first does."""
    weight, before = _WEIGHT[answer["state"]], _WEIGHT[known["state"]]
    if weight != before or before == 0:
        return weight > before
    then = known["settled_at"] if known["settled_at"] is not None else known["delivered_at"]
    mine = (now, answer["attempt"], answer["step"], answer["detail"] or "")
    return mine < (then, known["attempt"], known["step"], known["detail"] or "")


def _text(data: Mapping[str, Any], name: str, limit: int = _TEXT_LENGTH) -> str | None:
    value = data.get(name)
    return clean(value, limit) if isinstance(value, str) and value else None
