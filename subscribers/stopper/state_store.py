"""What the stopper remembers: a cache of what the journal said, in one small SQLite file.

Courses and the offset up to which the journal was read are one transaction. So a stopper that was
killed goes on from one moment of the journal, and comes to the same conclusions a second time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lineside.bus.errors import AddressInUse, LinesideError
from lineside.bus.file_lock import FileLock
from lineside.bus.settings import make_private_folder
from lineside.subscribers.stopper.rules import Rule

RETENTION_SECONDS = 60 * 86_400.0
"""How long an attempt is remembered after the last word of it."""
_FORMAT = 1  # of the file; another one is another file, and the journal read again
_TABLES = """
CREATE TABLE IF NOT EXISTS position (
    id INTEGER PRIMARY KEY CHECK (id = 0), journal TEXT NOT NULL, "offset" INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS courses (
    run TEXT, attempt TEXT, data TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (run, attempt)
);
CREATE TABLE IF NOT EXISTS standings (
    run TEXT, attempt TEXT, step INTEGER, data TEXT NOT NULL, PRIMARY KEY (run, attempt, step)
);
"""


class StateStoreError(LinesideError):
    """The file of what the stopper remembers cannot be used."""


class StateStore:
    """The memory in the file ``path``, or in none at all; for one thread.

    Raises:
        AddressInUse: another process has it.
        MemoryFailed: the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = None if path is None else _acquire_lock(path)
        try:
            with self._translate_errors():
                self._connection = sqlite3.connect(path or ":memory:")
                weakref.finalize(self, self._connection.close)
                self._connection.execute("PRAGMA journal_mode=WAL")
                # Of what a power cut takes, the journal is read again.
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.executescript(_TABLES)
        except BaseException:
            self._release()
            raise

    @classmethod
    def for_rules(cls, home: Path, rules: Sequence[Rule], *, dry_run: bool = False) -> StateStore:
        """What is remembered in ``home`` for exactly these rules; others begin with nothing."""
        identity = f"{_FORMAT} {dry_run} {sorted(map(repr, rules))}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return cls(make_private_folder(home / "stopper") / f"{name}.db")

    def position(self) -> tuple[str | None, int]:
        """The journal read last, and up to which offset."""
        with self._translate_errors():
            row = self._connection.execute('SELECT journal, "offset" FROM position').fetchone()
        return (None, 0) if row is None else (row[0] or None, row[1])

    def commit(self, journal: str | None, offset: int) -> None:
        """Keep what was said since the last time, and how far the journal was read for it."""
        with self._translate_errors():
            self._connection.execute(
                "INSERT OR REPLACE INTO position VALUES (0, ?, ?)", (journal or "", offset)
            )
            self._connection.commit()

    def attempt_state(self, run: str, attempt: str) -> dict[str, Any] | None:
        """The course of an attempt, as it was kept."""
        return self._fetch_one("SELECT data FROM courses WHERE run=? AND attempt=?", run, attempt)

    def attempt_states(self, run: str) -> list[dict[str, Any]]:
        """Of all attempts of a run."""
        with self._translate_errors():
            rows = self._connection.execute("SELECT data FROM courses WHERE run=?", (run,))
            return [json.loads(data) for (data,) in rows]

    def save_attempt_state(self, run: str, attempt: str, data: dict[str, Any], now: float) -> None:
        """With the next commit."""
        with self._translate_errors():
            self._connection.execute(
                "INSERT OR REPLACE INTO courses VALUES (?, ?, ?, ?)",
                (run, attempt, json.dumps(data), now),
            )

    def snapshot(self, run: str, attempt: str, step: int) -> dict[str, Any] | None:
        """How an attempt stood at ``step``, or at the last step before it that was kept."""
        return self._fetch_one(
            "SELECT data FROM standings WHERE run=? AND attempt=? AND step<=?"
            " ORDER BY step DESC LIMIT 1",
            run,
            attempt,
            step,
        )

    def save_snapshot(self, run: str, attempt: str, step: int, data: dict[str, Any]) -> None:
        """With the next commit."""
        with self._translate_errors():
            self._connection.execute(
                "INSERT OR REPLACE INTO standings VALUES (?, ?, ?, ?)",
                (run, attempt, step, json.dumps(data)),
            )

    def prune(self, now: float | None = None) -> None:
        """Let go of attempts of which nothing was heard for ``RETENTION_SECONDS``."""
        cutoff = (time.time() if now is None else now) - RETENTION_SECONDS
        with self._translate_errors():
            self._connection.execute(
                "DELETE FROM standings WHERE (run, attempt) IN"
                " (SELECT run, attempt FROM courses WHERE time < ?)",
                (cutoff,),
            )
            self._connection.execute("DELETE FROM courses WHERE time < ?", (cutoff,))
            self._connection.commit()

    def close(self) -> None:
        """Let go of the file; what was not committed is not kept."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._release()

    def _fetch_one(self, query: str, *parameters: object) -> dict[str, Any] | None:
        with self._translate_errors():
            row = self._connection.execute(query, parameters).fetchone()
        return None if row is None else json.loads(row[0])

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateStoreError(
                f"{self._path or 'memory'} cannot be used ({error}): free disk space, or remove "
                "the file, and the journal is read again"
            ) from error


def _acquire_lock(path: Path) -> FileLock:
    try:
        return FileLock(path.with_suffix(".lock"), wait=False)
    except BlockingIOError:
        raise AddressInUse(
            "the stopper's memory", str(path), "a stopper with the same rules runs on this home"
        ) from None
