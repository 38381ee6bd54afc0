"""The stopper's alerts, of which the watchdog sends notifications."""

from __future__ import annotations

from lineside.store.history.records import EventRow, Run
from lineside.subscribers.watchdog.alert import CLOSED, Alert

STOPPER = "stopper"
"""The producer of these alerts. The rule's name is the stopper's."""


def stopper_alert(run: Run, row: EventRow) -> Alert | None:
    """The alert in an event of the stopper, which opens and closes at once; None of any other."""
    data = row.data or {}
    alert_id, rule = data.get("id"), data.get("rule")
    if row.producer != STOPPER or not isinstance(alert_id, str) or not isinstance(rule, str):
        return None
    at = row.time.timestamp()
    action = data.get("action")
    would = f"would have sent {action}: " if data.get("dry_run") and action != "alert" else ""
    return Alert(
        id=alert_id,
        run=run.id,
        run_name=run.name,
        project=run.project,
        rule=rule,
        subject="",
        state=CLOSED,
        severity="warning",
        summary=f"{would}{data.get('why')}",
        action=f"lineside show {run.id}",
        opened_at=at,
        updated_at=at,
        closed_at=at,
        details={"step": row.step},
    )
