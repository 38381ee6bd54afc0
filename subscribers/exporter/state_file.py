"""Keeps the records of runs and the offset they belong to, in one SQLite file.

It is a cache of the journal: records and offset are one transaction, and what was read after it is
read again. So after any end each event is counted once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineside.subscribers.exporter.record import RunRecord
from lineside.subscribers.state.state_file import StateFile

_FORMAT = 1  # another format is another file, and the journal is read again
_TABLES = """
CREATE TABLE IF NOT EXISTS position (
    id INTEGER PRIMARY KEY CHECK (id = 0), journal TEXT NOT NULL, "offset" INTEGER NOT NULL,
    subscriber_errors TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS alerts (id INTEGER PRIMARY KEY CHECK (id = 0), data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, data TEXT NOT NULL, heard_at REAL NOT NULL, is_open INTEGER NOT NULL
);
"""


class ExporterState(StateFile):
    """The state of the exporter. Belongs to one thread; a power cut is answered by reading."""

    tables = _TABLES
    owner = "an exporter runs on this home"
    remedy = "free disk space, or remove the file, and the journal is read again"

    @classmethod
    def of(cls, home: Path) -> ExporterState:
        """The state in ``home``."""
        return cls(home / "exporter" / f"state{_FORMAT}.db")

    def position(self) -> tuple[str | None, int]:
        """The journal that was read, and the offset up to which it was."""
        rows = self.fetch('SELECT journal, "offset" FROM position')
        return (rows[0][0] or None, rows[0][1]) if rows else (None, 0)

    def subscriber_errors(self) -> dict[str, int]:
        """The counts of failures of subscribers."""
        rows = self.fetch("SELECT subscriber_errors FROM position")
        return dict(json.loads(rows[0][0])) if rows else {}

    def alerts(self) -> dict[str, Any]:
        """The open alerts as they were saved; empty if they never were."""
        rows = self.fetch("SELECT data FROM alerts")
        return dict(json.loads(rows[0][0])) if rows else {}

    def load(self, run_id: str) -> RunRecord | None:
        """The record of a run; None if there is none."""
        rows = self.fetch("SELECT data FROM runs WHERE id = ?", run_id)
        return RunRecord.from_dict(run_id, json.loads(rows[0][0])) if rows else None

    def open_runs(self) -> list[str]:
        """The runs that had series when they were saved."""
        return [run_id for (run_id,) in self.fetch("SELECT id FROM runs WHERE is_open")]

    def save(
        self,
        journal: str | None,
        offset: int,
        records: Mapping[str, tuple[RunRecord, bool]],
        subscriber_errors: Mapping[str, int],
        alerts: Mapping[str, Any],
    ) -> None:
        """Save records, each with whether its run has series, alerts and the offset, at once."""
        rows = [
            (run_id, json.dumps(record.to_dict()), record.state.heard_at, is_open)
            for run_id, (record, is_open) in records.items()
        ]
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", rows)
            db.execute(
                "INSERT OR REPLACE INTO position VALUES (0, ?, ?, ?)",
                (journal or "", offset, json.dumps(subscriber_errors)),
            )
            db.execute("INSERT OR REPLACE INTO alerts VALUES (0, ?)", (json.dumps(alerts),))

    def prune(self, before: float) -> None:
        """Delete runs without series and without an event since ``before``."""
        with self.transaction() as db:
            db.execute("DELETE FROM runs WHERE NOT is_open AND heard_at < ?", (before,))
