"""The messages that wait for their targets, in the watchdog's state file.

A row is a change of an alert for one target. All waiting rows of an alert go to a target as one
message, the newest: so a closing never overtakes its opening, and a target that could not be
reached is sent one message about an alert that has closed meanwhile.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from lineside.bus.wording import agree, plural
from lineside.subscribers.state.state_file import StateFile
from lineside.subscribers.watchdog.alert import NOTIFICATION_FAILING, Alert, AlertChange
from lineside.subscribers.watchdog.notification.message import Message, NotificationEvent, duration
from lineside.subscribers.watchdog.notification.target import Target

log = logging.getLogger("lineside")

EXPIRES_SECONDS = 3 * 86_400.0
"""How long delivery of a message is tried."""
MAX_SINGLE = 3
"""More messages than these go as one to a target that takes several."""
_ANNOUNCED_SECONDS = 90 * 86_400.0
_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS notifications (
        id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, alert TEXT NOT NULL,
        message TEXT NOT NULL, change TEXT NOT NULL, data TEXT NOT NULL, time REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX IF NOT EXISTS notifications_by_alert ON notifications (target, alert)",
    # Targets that were sent the opening of an alert, or have it waiting.
    """
    CREATE TABLE IF NOT EXISTS announced (
        target TEXT NOT NULL, alert TEXT NOT NULL, is_delivered INTEGER NOT NULL,
        time REAL NOT NULL, PRIMARY KEY (target, alert)
    )
    """,
)


@dataclass(frozen=True)
class Waiting:
    """A message that is due at a target, and the newest row that it stands for."""

    message: Message
    last_row: int


class Outbox:
    """The queue of each of ``targets`` in the file ``state``. Any thread may use it.

    ``page`` is the address of the dashboard, for links.
    """

    def __init__(self, state: StateFile, targets: Sequence[Target], page: str = "") -> None:
        self.targets = tuple(targets)
        self._state = state
        self._page = page
        with state.transaction() as db:
            for statement in _TABLES:
                db.execute(statement)
            self._report_former_targets(db)

    def add(self, db: sqlite3.Connection, change: AlertChange, alert: Alert) -> None:
        """Queue a notification of ``change`` in the transaction ``db`` of the caller.

        A closing is for the targets that had the opening, or have it waiting.
        """
        if change == "updated":
            return
        now, data, message = time.time(), json.dumps(asdict(alert)), f"msg_{secrets.token_hex(12)}"
        for target in self.targets:
            if change == "closed":
                if not _is_announced(db, target.id, alert.id):
                    continue
            elif target.filter.matches(alert) and not _is_about(target, alert):
                db.execute(
                    "INSERT OR IGNORE INTO announced VALUES (?, ?, 0, ?)",
                    (target.id, alert.id, now),
                )
            else:
                continue
            db.execute(
                "INSERT INTO notifications (target, alert, message, change, data, time)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (target.id, alert.id, message, change, data, now),
            )

    def next(self, target: Target) -> list[Waiting]:
        """What is due at ``target``: one message, or several that go as one if many wait.

        What was tried the fewest times comes first, or one message that a target does not like
        would keep it from all others.
        """
        with self._state.transaction() as db:
            self._expire(db, target)
            rows = db.execute(
                "SELECT alert, MAX(id) FROM notifications WHERE target=?"
                " GROUP BY alert ORDER BY MAX(attempts), MIN(id) LIMIT ?",
                (target.id, target.sender.max_messages),
            ).fetchall()
            if len(rows) <= MAX_SINGLE:
                rows = rows[:1]
            return [self._waiting(db, target, *row) for row in rows]

    def _waiting(
        self, db: sqlite3.Connection, target: Target, alert_id: str, last_row: int
    ) -> Waiting:
        message_id, change, data = db.execute(
            "SELECT message, change, data FROM notifications WHERE id=?", (last_row,)
        ).fetchone()
        was_announced = _is_announced(db, target.id, alert_id, is_delivered=True)
        event: NotificationEvent = change
        if event == "reminder" and not was_announced:
            event = "opened"
        message = Message(
            message_id,
            event,
            _alert_of(data),
            was_announced=was_announced or event == "opened",
            page=self._page,
        )
        return Waiting(message, last_row)

    def delivered(self, target: Target, delivered: Sequence[Waiting]) -> None:
        """Remove what ``target`` has taken."""
        with self._state.transaction() as db:
            for waiting in delivered:
                _remove(db, target.id, waiting)

    def failed(self, target: Target, failed: Sequence[Waiting]) -> None:
        """Count an attempt."""
        with self._state.transaction() as db:
            db.executemany(
                "UPDATE notifications SET attempts=attempts+1 WHERE target=? AND alert=? AND id<=?",
                [(target.id, one.message.alert.id, one.last_row) for one in failed],
            )

    def remove(self, target: Target) -> int:
        """Queue nothing more for ``target``, and drop what waits; how many messages."""
        self.targets = tuple(one for one in self.targets if one is not target)
        with self._state.transaction() as db:
            db.execute("DELETE FROM announced WHERE target=?", (target.id,))
            return db.execute("DELETE FROM notifications WHERE target=?", (target.id,)).rowcount

    def waiting_count(self, target: Target) -> int:
        """How many alerts have a message that waits for ``target``."""
        with self._state.transaction() as db:
            (count,) = db.execute(
                "SELECT COUNT(DISTINCT alert) FROM notifications WHERE target=?", (target.id,)
            ).fetchone()
        return int(count)

    def _expire(self, db: sqlite3.Connection, target: Target) -> None:
        """Give up what was tried for too long; a clock that jumps drops nothing untried."""
        cutoff = time.time() - EXPIRES_SECONDS
        condition = "target=? AND time<? AND attempts>0"
        expired = db.execute(
            f"SELECT alert, change, data FROM notifications WHERE {condition}",  # noqa: S608
            (target.id, cutoff),
        ).fetchall()
        if not expired:
            return
        for alert_id, change, data in expired:
            alert: dict[str, Any] = json.loads(data)
            log.error(
                "watchdog: %s was not notified that %s %s: given up after %s",
                target.name,
                alert["rule"] + (f" of {alert['run']}" if alert["run"] else ""),
                "still holds" if change == "reminder" else change,
                duration(EXPIRES_SECONDS),
            )
            if change == "closed":
                db.execute(
                    "DELETE FROM announced WHERE target=? AND alert=?", (target.id, alert_id)
                )
        db.execute(f"DELETE FROM notifications WHERE {condition}", (target.id, cutoff))  # noqa: S608

    def _report_former_targets(self, db: sqlite3.Connection) -> None:
        """Drop what waits for a target that is gone, but not at once: it may return."""
        ids = [target.id for target in self.targets]
        former = f"target NOT IN ({', '.join('?' * len(ids))})"
        now = time.time()
        db.execute(
            f"DELETE FROM notifications WHERE {former} AND time<?",  # noqa: S608
            (*ids, now - EXPIRES_SECONDS),
        )
        db.execute("DELETE FROM announced WHERE time<?", (now - _ANNOUNCED_SECONDS,))
        (count,) = db.execute(
            f"SELECT COUNT(*) FROM notifications WHERE {former}",  # noqa: S608
            ids,
        ).fetchone()
        if count:
            log.warning(
                "watchdog: %s for targets that are not in the configuration any more; dropped %s "
                "after it was queued",
                f"{plural(count, 'notification')} {agree(count, 'waits')}",
                duration(EXPIRES_SECONDS),
            )


def _remove(db: sqlite3.Connection, target: str, delivered: Waiting) -> None:
    alert_id = delivered.message.alert.id
    db.execute(
        "DELETE FROM notifications WHERE target=? AND alert=? AND id<=?",
        (target, alert_id, delivered.last_row),
    )
    if delivered.message.event != "closed" and delivered.message.alert.is_open:
        db.execute(
            "INSERT OR REPLACE INTO announced VALUES (?, ?, 1, ?)", (target, alert_id, time.time())
        )
        return
    is_reopened = db.execute(
        "SELECT 1 FROM notifications WHERE target=? AND alert=? LIMIT 1", (target, alert_id)
    ).fetchone()
    db.execute(
        "UPDATE announced SET is_delivered=0 WHERE target=? AND alert=?"
        if is_reopened
        else "DELETE FROM announced WHERE target=? AND alert=?",
        (target, alert_id),
    )


def _alert_of(data: str) -> Alert:
    """The alert that a row holds; one of another version may have more fields."""
    values = json.loads(data)
    return Alert(**{one.name: values[one.name] for one in fields(Alert) if one.name in values})


def _is_about(target: Target, alert: Alert) -> bool:
    """Whether ``alert`` reports that ``target`` takes no notifications."""
    return alert.rule == NOTIFICATION_FAILING and alert.subject == target.name


def _is_announced(
    db: sqlite3.Connection, target: str, alert: str, *, is_delivered: bool = False
) -> bool:
    row = db.execute(
        "SELECT 1 FROM announced WHERE target=? AND alert=? AND is_delivered>=?",
        (target, alert, int(is_delivered)),
    ).fetchone()
    return row is not None
