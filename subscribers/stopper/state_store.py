"""Stores the stopper's state in one small SQLite file: a cache of the journal.

States and the offset up to which the journal was read are one transaction. So a stopper that was
killed continues at one offset of the journal, and the same events lead to the same commands.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lineside.subscribers.state.state_file import StateFile
from lineside.subscribers.stopper.rules import Rule

RETENTION_SECONDS = 60 * 86_400.0
"""How long the state of an attempt is kept after its last event."""
_FORMAT = 2  # another format is another file, and the journal is read again
_TABLES = """
CREATE TABLE IF NOT EXISTS position (
    id INTEGER PRIMARY KEY CHECK (id = 0), journal TEXT NOT NULL, "offset" INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS attempt_states (
    run TEXT, attempt TEXT, data TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (run, attempt)
);
CREATE TABLE IF NOT EXISTS snapshots (
    run TEXT, attempt TEXT, step INTEGER, data TEXT NOT NULL, PRIMARY KEY (run, attempt, step)
);
"""


class StateStore(StateFile):
    """The states in the file ``path``, or in memory without one. Belongs to one thread.

    After a power cut the journal is read again.
    """

    tables = _TABLES
    owner = "a stopper with the same rules runs on this home"
    remedy = "free disk space, or remove the file, and the journal is read again"

    @classmethod
    def for_rules(cls, home: Path, rules: Sequence[Rule], *, dry_run: bool = False) -> StateStore:
        """The store in ``home`` for exactly these rules; other rules have another file."""
        identity = f"{_FORMAT} {dry_run} {sorted(map(repr, rules))}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return cls(home / "stopper" / f"{name}.db")

    def position(self) -> tuple[str | None, int]:
        """The journal that was read, and the offset up to which it was."""
        rows = self.fetch('SELECT journal, "offset" FROM position')
        return (rows[0][0] or None, rows[0][1]) if rows else (None, 0)

    def commit(self, journal: str | None, offset: int) -> None:
        """Commit every saved state, and the offset that they belong to."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO position VALUES (0, ?, ?)", (journal or "", offset))

    def attempt_state(self, run: str, attempt: str) -> dict[str, Any] | None:
        """The saved state of an attempt; None without one."""
        return self._fetch_first(
            "SELECT data FROM attempt_states WHERE run=? AND attempt=?", run, attempt
        )

    def attempt_states(self, run: str) -> list[dict[str, Any]]:
        """The saved states of all attempts of a run."""
        rows = self.fetch("SELECT data FROM attempt_states WHERE run=?", run)
        return [json.loads(data) for (data,) in rows]

    def save_attempt_state(self, run: str, attempt: str, data: dict[str, Any], now: float) -> None:
        """Save it with the next commit."""
        self._execute(
            "INSERT OR REPLACE INTO attempt_states VALUES (?, ?, ?, ?)",
            run,
            attempt,
            json.dumps(data),
            now,
        )

    def snapshot(self, run: str, attempt: str, step: int) -> dict[str, Any] | None:
        """The snapshot of an attempt at ``step``, or at the last saved step before it."""
        return self._fetch_first(
            "SELECT data FROM snapshots WHERE run=? AND attempt=? AND step<=?"
            " ORDER BY step DESC LIMIT 1",
            run,
            attempt,
            step,
        )

    def save_snapshot(self, run: str, attempt: str, step: int, data: dict[str, Any]) -> None:
        """Save it with the next commit."""
        self._execute(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
            run,
            attempt,
            step,
            json.dumps(data),
        )

    def prune(self, now: float | None = None) -> None:
        """Delete attempts without an event for ``RETENTION_SECONDS``, with the next commit."""
        cutoff = (time.time() if now is None else now) - RETENTION_SECONDS
        self._execute(
            "DELETE FROM snapshots WHERE (run, attempt) IN"
            " (SELECT run, attempt FROM attempt_states WHERE time < ?)",
            cutoff,
        )
        self._execute("DELETE FROM attempt_states WHERE time < ?", cutoff)

    def _fetch_first(self, query: str, *parameters: object) -> dict[str, Any] | None:
        rows = self.fetch(query, *parameters)
        return json.loads(rows[0][0]) if rows else None

    def _execute(self, query: str, *parameters: object) -> None:
        with self._translate_errors():
            self._connection.execute(query, parameters)
