"""The watchdog's file: alerts, and the events about them that are still to be published.

A change of an alert is one transaction: the alert, its event, and its notification in the outbox.
So each change is published and sent once, whatever is killed in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lineside.bus.protocol.alerts import WATCHDOG
from lineside.bus.protocol.event_kinds import ALERT
from lineside.bus.protocol.events import INTERNAL_RUN, Stream
from lineside.subscribers.subscriber_state import Publication, SubscriberState
from lineside.subscribers.watchdog.alert import Alert, AlertKey, State

_ALERT_TABLES = """
CREATE TABLE IF NOT EXISTS alerts (
    run TEXT NOT NULL, rule TEXT NOT NULL, subject TEXT NOT NULL, alert TEXT NOT NULL,
    notified TEXT, notified_at REAL NOT NULL, published_at REAL NOT NULL, quiet_until REAL NOT NULL,
    PRIMARY KEY (run, rule, subject)
);
CREATE TABLE IF NOT EXISTS passed_on (id TEXT PRIMARY KEY, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS progress (
    id INTEGER PRIMARY KEY CHECK (id = 0), began_at REAL NOT NULL, revision INTEGER NOT NULL
);
"""
_PASSED_ON_SECONDS = 60 * 86_400.0  # how long the ids of other producers' alerts are kept


@dataclass
class AlertRecord:
    """An alert, and what was made known of it.

    ``notified`` is the state that was last sent to targets, None if none was. ``published_at`` is
    the time of its newest event. No opening is sent before ``quiet_until``.
    """

    alert: Alert
    notified: State | None = None
    notified_at: float = 0.0
    published_at: float = 0.0
    quiet_until: float = 0.0


class WatchdogState(SubscriberState):
    """The file of a watchdog, or a state in memory without a path."""

    tables = SubscriberState.tables + _ALERT_TABLES
    owner = "a watchdog runs on this home already"

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO progress VALUES (0, ?, -1)", (time.time(),))
        self.mark_used()
        ((began_at, revision),) = self.fetch("SELECT began_at, revision FROM progress")
        self.began_at: float = began_at
        """When the file was made: what happened before is no alert."""
        self.revision: int = revision
        """The revision of the store that was judged last; -1 if none was."""

    @classmethod
    def of_home(cls, home: Path) -> WatchdogState:
        """The file in ``home``."""
        return cls(home / "subscribers" / f"{WATCHDOG}.1.db")

    def alerts(self) -> Iterator[AlertRecord]:
        """Every alert in the file: the open ones, and those that closed a short time ago."""
        columns = "alert, notified, notified_at, published_at, quiet_until"
        for text, *others in self.fetch(f"SELECT {columns} FROM alerts"):  # noqa: S608 - no value
            yield AlertRecord(Alert(**json.loads(text)), *others)

    def save_alert(self, record: AlertRecord) -> None:
        """Keep the alert as it stands."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *record.alert.key,
                    json.dumps(asdict(record.alert)),
                    record.notified,
                    record.notified_at,
                    record.published_at,
                    record.quiet_until,
                ),
            )

    def remove(self, key: AlertKey) -> None:
        """Forget an alert."""
        with self.transaction() as db:
            db.execute("DELETE FROM alerts WHERE run=? AND rule=? AND subject=?", key)

    def publish_alert(self, alert: Alert) -> None:
        """Publish ``alert`` as it stands, at the step of its details."""
        stream = Stream(alert.run or INTERNAL_RUN, WATCHDOG, self.attempt)
        step, data = alert.details.get("step") or 0, alert.to_event_data()
        self.publish(Publication(stream, ALERT, step, None, alert.updated_at, data))

    def pass_on(self, alert_id: str, now: float) -> bool:
        """Note another producer's alert; whether it was not known before."""
        with self.transaction() as db:
            db.execute("DELETE FROM passed_on WHERE time<?", (now - _PASSED_ON_SECONDS,))
            return bool(
                db.execute(
                    "INSERT OR IGNORE INTO passed_on VALUES (?, ?)", (alert_id, now)
                ).rowcount
            )

    def judged(self, revision: int) -> None:
        """Everything up to ``revision`` of the store was judged."""
        if revision != self.revision:
            with self.transaction() as db:
                db.execute("UPDATE progress SET revision=?", (revision,))
            self.revision = revision
