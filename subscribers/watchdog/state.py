"""The watchdog's file: alerts, and the events about them that are still to be published.

A change of an alert is one transaction: the alert, its event, and its notification in the outbox.
So each change is published and sent once, whatever is killed in between.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.alerts import WATCHDOG
from lineside.bus.protocol.event_kinds import ALERT
from lineside.bus.protocol.events import INTERNAL_RUN, Stream
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState
from lineside.subscribers.watchdog.alert import Alert, AlertKey, State

log = logging.getLogger("lineside")

_IN_MEMORY = "alerts are kept in memory, and after a restart they may be sent a second time"
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
    """The file of a watchdog, or a state in memory without a path.

    A disk that is full is what people want to be notified of. So the state can go on ``in_memory``
    with what the file holds, until that can be written again.
    """

    tables = SubscriberState.tables + _ALERT_TABLES
    owner = "a watchdog runs on this home already"

    def __init__(self, path: Path | None = None, *, in_memory: bool = False) -> None:
        super().__init__(None if in_memory else path)
        self._file = path
        self.is_in_memory = in_memory or path is None
        """Whether the end of the process ends the state."""
        if in_memory and path is not None:
            with contextlib.suppress(StateFileError):
                self._lock = self._acquire_lock(path)
            self._load_file(path)
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
        """The file in ``home``; in memory if it cannot be used."""
        path = home / "subscribers" / f"{WATCHDOG}.1.db"
        try:
            return cls(path)
        except StateFileError as error:
            log.error("watchdog: %s; until then %s", error, _IN_MEMORY)  # noqa: TRY400 - complete
            return cls(path, in_memory=True)

    def leave_file(self) -> bool:
        """Go on in memory with what the file holds; False if the state is there already."""
        if self.is_in_memory:
            return False
        memory = sqlite3.connect(":memory:", check_same_thread=False)
        with self._mutex:
            with contextlib.suppress(sqlite3.Error):
                self._connection.backup(memory)
            memory.executescript(self.tables)
            self._use(memory)
        self.is_in_memory = True
        log.error("watchdog: %s", _IN_MEMORY)
        return True

    def return_to_file(self) -> bool:
        """Write all to the file, and go on there; whether that works now."""
        if not self.is_in_memory or self._file is None:
            return not self.is_in_memory
        file: sqlite3.Connection | None = None
        try:
            if self._lock is None:
                self._lock = self._acquire_lock(self._file)
            file = sqlite3.connect(self._file, check_same_thread=False)
            with self._mutex:
                self._connection.backup(file)
                file.execute("PRAGMA journal_mode=WAL")
                file.execute("PRAGMA synchronous=NORMAL")
                self._use(file)
        except (sqlite3.Error, LinesideError):
            if file is not None:
                file.close()
            return False
        self._path, self.is_in_memory = self._file, False
        log.info("watchdog: alerts are kept in %s again", self._file)
        return True

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection.close()
        self._connection = connection
        weakref.finalize(self, connection.close)

    def _load_file(self, path: Path) -> None:
        """Copy what the file holds, as far as it can be read."""
        # Without room for the shared memory of its log, SQLite reads the file alone.
        for options in ("mode=ro", "mode=ro&immutable=1"):
            with contextlib.suppress(sqlite3.Error):
                uri = f"file:{quote(str(path))}?{options}"
                with contextlib.closing(sqlite3.connect(uri, uri=True)) as file:
                    file.backup(self._connection)
                    break
        with self.transaction() as db:
            for statement in filter(str.strip, self.tables.split(";")):
                db.execute(statement)
        rows = self.fetch("SELECT attempt FROM identity")
        self.is_new = not rows
        self.attempt = rows[0][0] if rows else self.attempt

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
