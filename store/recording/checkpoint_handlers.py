"""Folds the events about a checkpoint in the archive into one row.

The last state recorded counts: one archiver publishes them, in order. The event of a hold comes in
the stream of rank 0, and a late one does not take back a newer state. A checkpoint that is saved
again at the same path and step is held again, and has no state until the archiver reports one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, or_, select, update

from lineside.bus.protocol.checkpoints import (
    ARCHIVER,
    COPYING,
    EVICTED,
    FAILED,
    NAME_LENGTH,
    OPS,
    PATH_LENGTH,
    STATE_KINDS,
    STATES,
    WAITING,
    checkpoint_id,
)
from lineside.bus.protocol.commands import CONTROL_PRODUCER
from lineside.bus.protocol.event_kinds import (
    CHECKPOINT_HELD,
    CHECKPOINT_PROGRESS,
    CHECKPOINT_REQUEST,
)
from lineside.bus.protocol.events import RANK_0
from lineside.bus.protocol.fields import is_int64, is_timestamp
from lineside.store.database.tables import checkpoint_states
from lineside.store.database.values import is_finite_number, to_json
from lineside.store.recording.audit import add_entry
from lineside.store.recording.checkpoint_metrics import given_numbers, metrics_json
from lineside.store.recording.event_context import (
    EventContext,
    Handlers,
    InvalidEventData,
    optional_text,
)
from lineside.store.recording.run_cache import RunCache

_ATTEMPT_LENGTH = 128
_WHY_LENGTH = 1000
_MAX_REASONS = 20  # why the policy keeps it
_SIZES = ("bytes", "files", "sent", "done", "stored")
_STATE_COLUMNS = ("state", "state_at", "why", "retry_at", *_SIZES, "archive", "metrics", "keep")
_ON_THE_WAY = (WAITING, COPYING, FAILED)


class CheckpointHandlers:
    """Writes events about checkpoints in the archive into ``checkpoint_states`` and the audit."""

    def __init__(self, cache: RunCache) -> None:
        self._cache = cache
        self.handlers: Handlers = {
            CHECKPOINT_HELD: self._on_held,
            **dict.fromkeys(STATE_KINDS, self._on_state),
            CHECKPOINT_REQUEST: self._on_request,
        }

    def _on_held(self, context: EventContext) -> None:
        if context.stream.producer != RANK_0:
            raise InvalidEventData(f"only {RANK_0} publishes {CHECKPOINT_HELD}")
        data, time = context.data, context.event.time
        identity = _identity(context, context.stream.attempt, context.event.step)
        row = self._row(context, identity)
        values: dict[str, Any] = {"held_at": time}
        if row is None or row["state_at"] is None or row["state_at"] <= time:
            values |= dict.fromkeys((*_STATE_COLUMNS, "best"))
            values["hold"] = optional_text(data, "hold", PATH_LENGTH)
            values["why"] = optional_text(data, "why", _WHY_LENGTH)
            values |= {name: _size(data, name) for name in ("bytes", "files")}
        self._write(context, identity, row, values)
        self._mark_evicted(context)

    def _mark_evicted(self, context: EventContext) -> None:
        """Mark the older holds that made room, of checkpoints that were not archived before."""
        evicted, table = context.data.get("evicted"), checkpoint_states.c
        for item in evicted if isinstance(evicted, (list, tuple)) else ():
            if not isinstance(item, Mapping) or not is_int64(item.get("step")):
                continue
            path = optional_text(item, "checkpoint", PATH_LENGTH)
            is_on_the_way = or_(table.state.is_(None), table.state.in_(_ON_THE_WAY))
            self._cache.connection.execute(
                update(checkpoint_states)
                .where(table.run_key == context.run.key, table.path == path)
                .where(table.step == item["step"], is_on_the_way)
                .values(
                    state=EVICTED,
                    state_at=context.event.time,
                    why=optional_text(item, "why", _WHY_LENGTH),
                    retry_at=None,
                )
            )

    def _on_state(self, context: EventContext) -> bool:
        """Returns whether it leaves the state as it was: then it is no event of the timeline."""
        if context.stream.producer != ARCHIVER:
            raise InvalidEventData(f"only {ARCHIVER} publishes states of checkpoints")
        data, state = context.data, context.data.get("state")
        if state not in STATES:
            raise InvalidEventData(f"state {state!r:.100}: expected one of {', '.join(STATES)}")
        identity = _named_identity(context)
        row = self._row(context, identity)
        values: dict[str, Any] = {
            "state": state,
            "state_at": context.event.time,
            "why": optional_text(data, "why", _WHY_LENGTH),
            "retry_at": _time(data, "retry_at"),
            **{name: _size(data, name) for name in _SIZES},
            "archive": optional_text(data, "archive", PATH_LENGTH),
            "metrics": metrics_json(given_numbers(data.get("metrics"))),
            "pinned": data.get("pinned") is True,
            "best": data.get("best") is True,
            "keep": _reasons(data.get("keep")),
        }
        answered = optional_text(data, "request", NAME_LENGTH)
        if answered is not None:
            refused = optional_text(data, "refused", _WHY_LENGTH)
            if row is not None and row["requested_id"] == answered:
                self._audit(context, row, "rejected" if refused else "applied", refused)
                values |= dict.fromkeys(
                    ("requested", "requested_id", "requested_at", "requested_by")
                )
            values["refused"] = refused
        self._write(context, identity, row, values)
        is_known = row is not None and row["state"] == state
        return is_known or context.event.kind == CHECKPOINT_PROGRESS

    def _on_request(self, context: EventContext) -> None:
        if context.stream.producer != CONTROL_PRODUCER:
            raise InvalidEventData(
                f"{CHECKPOINT_REQUEST} counts only in a stream of {CONTROL_PRODUCER!r}"
            )
        op = context.data.get("op")
        if op not in OPS:
            raise InvalidEventData(f"op {op!r:.100}: expected one of {', '.join(OPS)}")
        identity = _named_identity(context)
        values = {
            "requested": op,
            "requested_id": optional_text(context.data, "id", NAME_LENGTH),
            "requested_at": context.event.time,
            "requested_by": optional_text(context.data, "issuer", NAME_LENGTH),
            "refused": None,
        }
        self._write(context, identity, self._row(context, identity), values)
        self._audit(context, {**identity, **values}, "requested", None)

    def _audit(
        self, context: EventContext, row: Mapping[str, Any], outcome: str, why: str | None
    ) -> None:
        add_entry(
            self._cache.connection,
            time=context.event.time,
            who=row["requested_by"],
            action=f"{row['requested']} checkpoint {row['path']}",
            target=context.run.id,
            outcome=outcome,
            why=why,
            run=context.run.id,
        )

    def _row(self, context: EventContext, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        table = checkpoint_states
        query = select(table).where(
            table.c.run_key == context.run.key, table.c.id == identity["id"]
        )
        row = self._cache.connection.execute(query).first()
        return None if row is None else dict(row._mapping)

    def _write(
        self,
        context: EventContext,
        identity: Mapping[str, Any],
        row: Mapping[str, Any] | None,
        values: Mapping[str, Any],
    ) -> None:
        table, key = checkpoint_states, context.run.key
        if row is None:
            statement: Any = insert(table).values(run_key=key, **identity, **values)
        else:
            of_row = (table.c.run_key == key) & (table.c.id == identity["id"])
            statement = update(table).where(of_row).values(**values)
        self._cache.connection.execute(statement)


def _named_identity(context: EventContext) -> dict[str, Any]:
    """The identity of a checkpoint that the event's data names."""
    attempt, step = optional_text(context.data, "attempt"), context.data.get("step")
    if attempt is None or len(attempt) > _ATTEMPT_LENGTH or not is_int64(step):
        raise InvalidEventData(f"{attempt!r:.140}, step {step!r:.40}: no attempt and step")
    return _identity(context, attempt, step)


def _identity(context: EventContext, attempt: str, step: int) -> dict[str, Any]:
    path = optional_text(context.data, "checkpoint", PATH_LENGTH)
    if path is None:
        raise InvalidEventData(f"checkpoint {context.data.get('checkpoint')!r:.200} is no path")
    return {
        "id": checkpoint_id(attempt, step, path),
        "attempt": attempt,
        "step": step,
        "path": path,
    }


def _size(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return int(value) if is_int64(value) and value >= 0 else None


def _time(data: Mapping[str, Any], name: str) -> float | None:
    found = data.get(name)
    return float(found) if is_finite_number(found) and is_timestamp(found) else None


def _reasons(value: object) -> str | None:
    """The texts of ``keep`` as JSON; None without any."""
    if not isinstance(value, (list, tuple)):
        return None
    texts = [text[:_ATTEMPT_LENGTH] for text in value if isinstance(text, str)]
    return to_json(texts[:_MAX_REASONS]) if texts else None
