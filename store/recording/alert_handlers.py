"""Folds the events about an alert into one row, and mutes into theirs.

They come in several streams, and those of a restarted watchdog may be recorded before older ones.
The rows are the same in every order: the newest ``updated_at`` counts, and the first
acknowledgement. An alert without ``state``, such as the stopper's, is opened and closed at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, insert, select, update

from lineside.bus.protocol.alerts import (
    CLOSED,
    ID_LENGTH,
    OPEN,
    RULE_LENGTH,
    SEVERITIES,
    TEXT_LENGTH,
    WARNING,
    WATCHDOG,
)
from lineside.bus.protocol.commands import CONTROL_PRODUCER
from lineside.bus.protocol.event_kinds import (
    ALERT,
    ALERT_ACKNOWLEDGED,
    ALERT_MUTED,
    ALERT_UNMUTED,
)
from lineside.bus.protocol.fields import is_int64, is_timestamp
from lineside.store.database.tables import alert_mutes, alerts
from lineside.store.database.values import is_finite_number, sanitize_text, to_json
from lineside.store.recording.audit import add_entry
from lineside.store.recording.event_context import (
    EventContext,
    Handlers,
    InvalidEventData,
    optional_text,
)
from lineside.store.recording.run_cache import RunCache

_ACTION_LENGTH = 4000
_MAX_DETAILS = 64_000  # characters of JSON


class AlertHandlers:
    """Writes events about alerts into ``alerts``, ``alert_mutes`` and the audit."""

    def __init__(self, cache: RunCache) -> None:
        self._cache = cache
        self.handlers: Handlers = {
            ALERT: self._on_alert,
            ALERT_ACKNOWLEDGED: self._on_acknowledged,
            ALERT_MUTED: self._on_muted,
            ALERT_UNMUTED: self._on_unmuted,
        }

    def _on_alert(self, context: EventContext) -> bool:
        """Returns whether the event neither opened nor closed the alert."""
        alert_id, values = _id_of_alert(context), _alert_values(context)
        row = self._row(alerts, context, alert_id)
        if row is None:
            self._insert(alerts, context, alert_id, values)
            return False
        if row["state"] is None:  # its acknowledgement was recorded first
            self._update(alerts, context, alert_id, values)
            return False
        if row["producer"] != values["producer"]:
            raise InvalidEventData(f"the alert {alert_id} belongs to {row['producer']}")
        changes = dict(values) if _precedence(values) > _precedence(row) else {}
        changes["opened_at"] = min(row["opened_at"], values["opened_at"])
        changes["openings"] = max(row["openings"], values["openings"])
        self._update(alerts, context, alert_id, changes)
        return bool(row["state"] == values["state"])

    def _on_acknowledged(self, context: EventContext) -> None:
        alert_id = _id_in_control(context, "alert")
        note = optional_text(context.data, "note", TEXT_LENGTH) or ""
        values = {
            "acknowledged_at": context.event.time,
            "acknowledged_by": optional_text(context.data, "by", TEXT_LENGTH) or "",
            "acknowledged_note": note,
        }
        row = self._row(alerts, context, alert_id)
        if row is None:
            self._insert(alerts, context, alert_id, values)
        elif row["acknowledged_at"] is None or _first(values) < _first(row):
            self._update(alerts, context, alert_id, values)
        self._audit(context, f"acknowledge alert {alert_id}", note)

    def _on_muted(self, context: EventContext) -> None:
        mute_id = _id_in_control(context, "id")
        values = _mute_values(context)
        row = self._row(alert_mutes, context, mute_id)
        if row is None:
            self._insert(alert_mutes, context, mute_id, values)
        elif row["muted_at"] is None:
            self._update(alert_mutes, context, mute_id, values)
        rule = values["rule"]
        action = f"mute alerts of {rule}" if rule else "mute all alerts"
        self._audit(context, action, values["note"])

    def _on_unmuted(self, context: EventContext) -> None:
        mute_id, time = _id_in_control(context, "id"), context.event.time
        by = optional_text(context.data, "by", TEXT_LENGTH) or ""
        row = self._row(alert_mutes, context, mute_id)
        if row is None:
            self._insert(alert_mutes, context, mute_id, {"ended_at": time, "ended_by": by})
        elif row["ended_at"] is None or (time, by) < (row["ended_at"], row["ended_by"]):
            self._update(alert_mutes, context, mute_id, {"ended_at": time, "ended_by": by})
        self._audit(context, f"lift mute {mute_id}", "")

    def _audit(self, context: EventContext, action: str, why: str) -> None:
        add_entry(
            self._cache.connection,
            time=context.event.time,
            who=optional_text(context.data, "by", TEXT_LENGTH),
            action=action,
            target=context.run.id,
            outcome="applied",
            why=why or None,
            run=context.run.id,
        )

    def _row(self, table: Table, context: EventContext, row_id: str) -> Mapping[str, Any] | None:
        query = select(table).where(table.c.run_key == context.run.key, table.c.id == row_id)
        row = self._cache.connection.execute(query).first()
        return None if row is None else dict(row._mapping)

    def _insert(
        self, table: Table, context: EventContext, row_id: str, values: Mapping[str, Any]
    ) -> None:
        row = {"run_key": context.run.key, "id": row_id, **values}
        self._cache.connection.execute(insert(table).values(row))

    def _update(
        self, table: Table, context: EventContext, row_id: str, values: Mapping[str, Any]
    ) -> None:
        of_row = (table.c.run_key == context.run.key) & (table.c.id == row_id)
        self._cache.connection.execute(update(table).where(of_row).values(**values))


def _id_of_alert(context: EventContext) -> str:
    if "state" in context.data or "id" in context.data:
        return _id(context, "id")
    identity = f"{context.stream.producer} {context.stream.attempt} {context.event.seq}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _id_in_control(context: EventContext, name: str) -> str:
    if context.stream.producer != CONTROL_PRODUCER:
        kind = context.event.kind
        raise InvalidEventData(f"{kind} counts only in a stream of {CONTROL_PRODUCER!r}")
    return _id(context, name)


def _id(context: EventContext, name: str) -> str:
    found = context.data.get(name)
    if not isinstance(found, str) or not found or sanitize_text(found, ID_LENGTH) != found:
        raise InvalidEventData(f"{name} {found!r:.100} is no text of 1 to {ID_LENGTH} characters")
    return found


def _alert_values(context: EventContext) -> dict[str, Any]:
    data, producer = context.data, context.stream.producer
    common = {
        "producer": producer,
        "rule": optional_text(data, "rule", RULE_LENGTH) or producer,
        "subject": optional_text(data, "subject", RULE_LENGTH) or "",
        "step": context.event.step,
    }
    if "state" not in data:
        return {**common, **_report_values(context)}
    if producer != WATCHDOG:
        raise InvalidEventData(f"only {WATCHDOG} publishes alerts that open and close")
    state, severity = data["state"], data.get("severity")
    if state not in (OPEN, CLOSED):
        raise InvalidEventData(f"state {state!r:.100}: expected {OPEN} or {CLOSED}")
    if severity not in SEVERITIES:
        raise InvalidEventData(f"severity {severity!r:.100}: expected {', '.join(SEVERITIES)}")
    updated_at = _time(data, "updated_at", context.event.time)
    openings = data.get("openings")
    return {
        **common,
        "state": state,
        "severity": severity,
        "summary": optional_text(data, "summary", TEXT_LENGTH) or "",
        "details": _details(data.get("details")),
        "action": optional_text(data, "action", _ACTION_LENGTH) or "",
        "opened_at": _time(data, "opened_at", updated_at),
        "updated_at": updated_at,
        "closed_at": _time(data, "closed_at", updated_at) if state == CLOSED else None,
        "openings": openings if is_int64(openings) and openings > 0 else 1,
    }


def _report_values(context: EventContext) -> dict[str, Any]:
    """An alert without an end: the rule held at one moment."""
    data, time = context.data, context.event.time
    severity = data.get("severity")
    if severity not in SEVERITIES:
        severity = WARNING
    summary = optional_text(data, "summary", TEXT_LENGTH) or optional_text(data, "why", TEXT_LENGTH)
    action = optional_text(data, "action", RULE_LENGTH)
    if data.get("dry_run") is True and action not in (None, ALERT):
        summary = f"would have sent {action}: {summary or ''}"[:TEXT_LENGTH]
    known = ("id", "rule", "subject", "severity", "summary", "why")
    return {
        "state": CLOSED,
        "severity": severity,
        "summary": summary or "",
        "details": _details({name: value for name, value in data.items() if name not in known}),
        "action": "",
        "opened_at": time,
        "updated_at": time,
        "closed_at": time,
        "openings": 1,
    }


def _mute_values(context: EventContext) -> dict[str, Any]:
    data, rule, until = context.data, context.data.get("rule"), context.data.get("until")
    if rule is not None and not (isinstance(rule, str) and 0 < len(rule) <= RULE_LENGTH):
        raise InvalidEventData(f"rule {rule!r:.100} is no text of 1 to {RULE_LENGTH} characters")
    if until is not None and not (is_finite_number(until) and is_timestamp(until)):
        raise InvalidEventData(f"until {until!r:.100} is no time")
    return {
        "muted_at": context.event.time,
        "rule": None if rule is None else sanitize_text(rule, RULE_LENGTH),
        "until": None if until is None else float(until),
        "by": optional_text(data, "by", TEXT_LENGTH) or "",
        "note": optional_text(data, "note", TEXT_LENGTH) or "",
    }


def _details(found: object) -> str:
    text = to_json(found if isinstance(found, Mapping) else {})
    if len(text) <= _MAX_DETAILS:
        return text
    return to_json({"!": f"details of {len(text):,} characters: the event has them"})


def _time(data: Mapping[str, Any], name: str, default: float) -> float:
    found = data.get(name)
    return float(found) if is_finite_number(found) and is_timestamp(found) else default


def _precedence(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which of two events of an alert counts: the newer one, of two equal ones that of its end."""
    is_closed = values["state"] == CLOSED
    return (values["updated_at"], is_closed, values["summary"], values["details"])


def _first(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        values["acknowledged_at"],
        values["acknowledged_by"],
        values["acknowledged_note"],
    )
