"""Opens, updates and closes alerts by what the rules find, each change in one transaction."""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lineside.subscribers.watchdog.alert import (
    CLOSED,
    OPEN,
    SEVERITIES,
    Alert,
    AlertChange,
    AlertKey,
    Severity,
)
from lineside.subscribers.watchdog.rules.rule import Finding
from lineside.subscribers.watchdog.state import AlertRecord, WatchdogState

log = logging.getLogger("lineside")

UPDATE_SECONDS = 60.0
"""The time between two events of an open alert, unless it becomes more severe."""


class Outbox(Protocol):
    """What sends notifications: it keeps them in the transaction that it is given."""

    def add(self, db: sqlite3.Connection, change: AlertChange, alert: Alert) -> None:
        """Send ``alert`` to the targets that want it, after ``change``."""


class NoOutbox:
    """Sends nothing."""

    def add(self, db: sqlite3.Connection, change: AlertChange, alert: Alert) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Timing:
    """``cool_down``: an alert that opens again so soon after it closed is the same one.

    ``repeat`` is the time between two reminders of an open critical alert; 0 sends none.
    """

    cool_down: float = 900.0
    repeat: float = 14_400.0


@dataclass(frozen=True)
class Subject:
    """What an alert is about: the run with its name and project; all empty without one.

    ``details`` are those of every alert of the run.
    """

    run: str = ""
    name: str = ""
    project: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A finding of a rule about a subject, to open an alert when it holds for ``hold`` seconds."""

    rule: str
    severity: Severity
    hold: float
    finding: Finding
    subject: Subject

    @property
    def key(self) -> AlertKey:
        return AlertKey(self.subject.run, self.rule, self.finding.subject)

    @property
    def alert_severity(self) -> Severity:
        return self.finding.severity or self.severity


@dataclass(frozen=True)
class Judgement:
    """What was found, and which alerts were judged: those without a finding close.

    ``gone`` are runs that are deleted, ``statuses`` those of the runs that were read.
    ``is_muted`` and ``is_acknowledged`` are about an alert.
    """

    found: Iterable[Found]
    is_judged: Callable[[AlertKey], bool]
    gone: frozenset[str] = frozenset()
    statuses: Mapping[str, str] = field(default_factory=dict)
    is_muted: Callable[[Alert], bool] = lambda _: False
    is_acknowledged: Callable[[Alert], bool] = lambda _: False


class Engine:
    """The alerts in ``state``. Belongs to one thread.

    Targets get an opening and the closing after it. Within the cool-down from that closing on, and
    while the alert is muted, they get no other opening: one that is open after that is sent then.
    """

    def __init__(self, state: WatchdogState, outbox: Outbox, timing: Timing) -> None:
        self._state = state
        self._outbox = outbox
        self._timing = timing
        self._records = {record.alert.key: record for record in state.alerts()}
        self._held_since: dict[AlertKey, float] = {}

    @property
    def open_alerts(self) -> list[Alert]:
        """The alerts that are open."""
        return [one.alert for one in self._records.values() if one.alert.is_open]

    @property
    def watched_runs(self) -> set[str]:
        """The runs with an alert that is open, or about to open."""
        keys = {one.key for one in self.open_alerts} | self._held_since.keys()
        return {key.run for key in keys if key.run}

    @property
    def pending_runs(self) -> set[str]:
        """The runs with an alert that is about to open, which a new process would not know."""
        return {key.run for key in self._held_since if not self._is_open(key)}

    def begin_again_at(self, now: float) -> None:
        """The clock was set, or the machine slept: what holds is timed from ``now`` on."""
        self._held_since = dict.fromkeys(self._held_since, now)
        for record in self._records.values():
            record.notified_at = min(record.notified_at, now)
            record.published_at = min(record.published_at, now)
            record.quiet_until = min(record.quiet_until, now + self._timing.cool_down)

    def apply(self, judgement: Judgement, now: float) -> bool:
        """Bring the alerts up to date; whether something is to be published or sent.

        Raises:
            StateFileError: the file cannot be written. Nothing changed; the next call repeats it.
        """
        found = {one.key: one for one in judgement.found}
        held = {key: self._held_since.get(key, now) for key in found}
        records = dict(self._records)
        with self._state.transaction() as db:
            changed = _Changes(self._state, self._outbox, db)
            for key, one in found.items():
                record = records.get(key)
                if record is not None and record.alert.is_open:
                    records[key] = self._update(record, one, judgement, now, changed)
                elif now - held[key] >= one.hold:
                    records[key] = self._open(record, one, judgement, now, changed)
            for key, record in list(records.items()):
                if record.alert.run in judgement.gone:
                    if record.alert.is_open:
                        self._close(record, judgement, now, changed)
                    self._state.remove(key)
                    del records[key]
                elif record.alert.is_open and key not in found and judgement.is_judged(key):
                    records[key] = self._close(record, judgement, now, changed)
                elif not record.alert.is_open and self._is_over(record, now):
                    self._state.remove(key)
                    del records[key]
        # What could not be judged keeps its time.
        for key, since in self._held_since.items():
            if key not in held and not judgement.is_judged(key):
                held[key] = since
        self._records, self._held_since = records, held
        return changed.happened

    def pass_on(self, alert: Alert, now: float, *, is_muted: bool = False) -> bool:
        """Notify of another producer's alert, once and unless it is muted; whether it is new."""
        with self._state.transaction() as db:
            is_new = self._state.pass_on(alert.id, now)
            if is_new and not is_muted:
                self._outbox.add(db, "opened", alert)
        return is_new

    def _is_open(self, key: AlertKey) -> bool:
        return key in self._records and self._records[key].alert.is_open

    def _open(
        self,
        before: AlertRecord | None,
        one: Found,
        judgement: Judgement,
        now: float,
        changed: _Changes,
    ) -> AlertRecord:
        subject = one.subject
        alert = Alert(
            id=secrets.token_hex(8),
            run=subject.run,
            run_name=subject.name,
            project=subject.project,
            rule=one.rule,
            subject=one.finding.subject,
            state=OPEN,
            severity=one.alert_severity,
            summary=one.finding.summary,
            action=one.finding.action,
            opened_at=now,
            updated_at=now,
            details={**subject.details, **one.finding.details},
        )
        record = AlertRecord(alert)
        if before is not None and not self._is_over(before, now):
            old = before.alert
            alert = replace(
                alert,
                id=old.id,
                opened_at=old.opened_at,
                updated_at=_after(old, now),
                openings=old.openings + 1,
            )
            record = replace(before, alert=alert)
        log.warning("alert opened: %s: %s", _name(alert), alert.summary)
        change = self._notify(record, judgement, now)
        changed.make(record, change, now)
        return record

    def _update(
        self, record: AlertRecord, one: Found, judgement: Judgement, now: float, changed: _Changes
    ) -> AlertRecord:
        before, finding = record.alert, one.finding
        alert = replace(
            before,
            severity=one.alert_severity,
            summary=finding.summary,
            action=finding.action,
            run_name=one.subject.name,
            project=one.subject.project,
            details={**one.subject.details, **finding.details},
        )
        rank = SEVERITIES.index
        is_worse = rank(alert.severity) < rank(before.severity)
        is_muted = judgement.is_muted(alert)
        is_new_to_targets = not is_muted and record.notified != OPEN and now >= record.quiet_until
        is_reminder = (
            not is_muted
            and record.notified == OPEN
            and (is_worse or self._is_reminder_due(record, judgement, now))
        )
        is_due = now - record.published_at >= UPDATE_SECONDS and (
            (alert.summary, alert.severity) != (before.summary, before.severity)
        )
        if not (is_new_to_targets or is_reminder or is_worse or is_due):
            return record
        record = replace(record, alert=replace(alert, updated_at=_after(before, now)))
        change: AlertChange = "updated"
        if is_new_to_targets:
            change, record.notified, record.notified_at = "opened", OPEN, now
        elif is_reminder:
            change, record.notified_at = "reminder", now
        changed.make(record, change, now)
        return record

    def _close(
        self, record: AlertRecord, judgement: Judgement, now: float, changed: _Changes
    ) -> AlertRecord:
        before, details = record.alert, dict(record.alert.details)
        if before.run in judgement.statuses:
            details["status"] = judgement.statuses[before.run]
        alert = replace(
            before,
            state=CLOSED,
            updated_at=_after(before, now),
            closed_at=max(now, before.opened_at),
            details=details,
        )
        was_sent = record.notified == OPEN
        record = replace(record, alert=alert)
        if was_sent:  # a closing without a notification must not prolong the silence
            record.notified, record.notified_at = CLOSED, now
            record.quiet_until = now + self._timing.cool_down
        log.info("alert closed: %s: %s", _name(alert), alert.summary)
        changed.make(record, "closed" if was_sent else "updated", now)
        return record

    def _notify(self, record: AlertRecord, judgement: Judgement, now: float) -> AlertChange:
        if judgement.is_muted(record.alert) or now < record.quiet_until:
            return "updated"
        record.notified, record.notified_at = OPEN, now
        return "opened"

    def _is_reminder_due(self, record: AlertRecord, judgement: Judgement, now: float) -> bool:
        return (
            0 < self._timing.repeat <= now - record.notified_at
            and record.alert.severity == SEVERITIES[0]
            and not judgement.is_acknowledged(record.alert)
        )

    def _is_over(self, record: AlertRecord, now: float) -> bool:
        """Whether an alert that closed would open as another one."""
        return now >= (record.alert.closed_at or 0.0) + self._timing.cool_down


class _Changes:
    """The changes of one transaction."""

    def __init__(self, state: WatchdogState, outbox: Outbox, db: sqlite3.Connection) -> None:
        self._state = state
        self._outbox = outbox
        self._db = db
        self.happened = False

    def make(self, record: AlertRecord, change: AlertChange, now: float) -> None:
        """Keep the alert, publish its event and hand it to the outbox."""
        record.published_at = now
        self._state.save_alert(record)
        self._state.publish_alert(record.alert)
        self._outbox.add(self._db, change, record.alert)
        self.happened = True


def _after(before: Alert, now: float) -> float:
    """The time of the next change: the recorder keeps the newest, also if the clock was set."""
    return max(now, before.updated_at + 0.001)


def _name(alert: Alert) -> str:
    return " ".join(filter(None, (alert.rule, alert.run_name or alert.run, alert.subject)))
