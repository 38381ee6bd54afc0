"""Keeps the records of runs and the offset they belong to, in one SQLite file.

It is a cache of the journal: records and offset are one transaction, and what was read after it is
read again. So after any end each event is counted once.
"""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lineside.bus.errors import AddressInUse
from lineside.bus.file_lock import FileLock
from lineside.subscribers.exporter.record import RunRecord
from lineside.subscribers.state_file import StateFileError

_FORMAT = 1  # another format is another file, and the journal is read again
_TABLES = """
CREATE TABLE IF NOT EXISTS position (
    id INTEGER PRIMARY KEY CHECK (id = 0), journal TEXT NOT NULL, "offset" INTEGER NOT NULL,
    subscriber_errors TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, data TEXT NOT NULL, heard_at REAL NOT NULL, is_open INTEGER NOT NULL
);
"""


class StateFile:
    """The file in ``folder``, locked. Belongs to one thread.

    Raises:
        AddressInUse: another exporter uses it.
        StateFileError: the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"state{_FORMAT}.db"
        try:
            self._lock = FileLock(folder / "state.lock", wait=False)
        except BlockingIOError:
            raise AddressInUse(
                "the exporter's state file", str(self._path), "an exporter runs on this home"
            ) from None
        try:
            with self._translate_errors():
                self._connection = sqlite3.connect(self._path)
                weakref.finalize(self, self._connection.close)
                self._connection.execute("PRAGMA journal_mode=WAL")
                # After a power cut the journal is read again.
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.executescript(_TABLES)
        except BaseException:
            self._lock.release()
            raise

    def position(self) -> tuple[str | None, int]:
        """The journal that was read, and the offset up to which it was."""
        with self._translate_errors():
            row = self._connection.execute('SELECT journal, "offset" FROM position').fetchone()
        return (row[0] or None, row[1]) if row else (None, 0)

    def subscriber_errors(self) -> dict[str, int]:
        """The counts of failures of subscribers."""
        with self._translate_errors():
            row = self._connection.execute("SELECT subscriber_errors FROM position").fetchone()
        return dict(json.loads(row[0])) if row else {}

    def load(self, run_id: str) -> RunRecord | None:
        """The record of a run; None if there is none."""
        with self._translate_errors():
            row = self._connection.execute(
                "SELECT data FROM runs WHERE id = ?", (run_id,)
            ).fetchone()
        return RunRecord.from_dict(run_id, json.loads(row[0])) if row else None

    def open_runs(self) -> list[str]:
        """The runs that had series when they were saved."""
        with self._translate_errors():
            rows = self._connection.execute("SELECT id FROM runs WHERE is_open").fetchall()
        return [run_id for (run_id,) in rows]

    def save(
        self,
        journal: str | None,
        offset: int,
        records: Mapping[str, tuple[RunRecord, bool]],
        subscriber_errors: Mapping[str, int],
    ) -> None:
        """Save records, each with whether its run has series, and the offset, at once."""
        rows = [
            (run_id, json.dumps(record.to_dict()), record.state.heard_at, is_open)
            for run_id, (record, is_open) in records.items()
        ]
        with self._translate_errors(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", rows)
            self._connection.execute(
                "INSERT OR REPLACE INTO position VALUES (0, ?, ?, ?)",
                (journal or "", offset, json.dumps(subscriber_errors)),
            )

    def prune(self, before: float) -> None:
        """Delete runs without series and without an event since ``before``."""
        with self._translate_errors(), self._connection:
            self._connection.execute(
                "DELETE FROM runs WHERE NOT is_open AND heard_at < ?", (before,)
            )

    def close(self) -> None:
        """Close the file; what was not saved is read again."""
        self._connection.close()
        self._lock.release()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateFileError(
                f"{self._path} cannot be used ({error}): free disk space, or remove the file, and "
                "the journal is read again"
            ) from error
