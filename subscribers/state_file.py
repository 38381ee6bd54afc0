"""The file of one subscriber: states of its runs, and what it has yet to publish.

What a batch of events changed is one transaction: state, the number of the next event and
publications. So an event that is delivered again after a crash changes nothing a second time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.errors import AddressInUse, LinesideError
from lineside.bus.file_lock import FileLock
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.bus.settings import make_private_folder

RETENTION_SECONDS = 60 * 86_400.0
"""How long the state of a run is kept after its last change."""
_FORMAT = 1  # of the file
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, state TEXT NOT NULL, context TEXT NOT NULL, time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS next_seqs (
    stream TEXT PRIMARY KEY, run TEXT NOT NULL, seq INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS next_seqs_by_run ON next_seqs (run);
CREATE TABLE IF NOT EXISTS publications (
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, seq INTEGER, kind TEXT NOT NULL,
    step INTEGER NOT NULL, epoch REAL, time REAL NOT NULL, data TEXT
);
CREATE TABLE IF NOT EXISTS identity (attempt TEXT NOT NULL);
"""


class StateFileError(LinesideError):
    """The file of a subscriber's states cannot be used."""


class Publication(NamedTuple):
    """An event to publish on ``stream``; ``time`` in seconds since the epoch."""

    stream: Stream
    kind: str
    step: int
    epoch: float | None
    time: float
    data: Mapping[str, Any] | None


class Pending(NamedTuple):
    """A publication in the file, with the ``seq`` it gets in its stream."""

    seq: int
    publication: Publication


@dataclass
class SavedRun:
    """What the file holds of a run."""

    state: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    next_seqs: dict[Stream, int] = field(default_factory=dict)


class StateFile:
    """The states in the file ``path``, or in memory without one. Any thread may use it.

    Raises:
        AddressInUse: another process uses the file.
        StateFileError: the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._mutex, self._sync_lock = threading.Lock(), threading.Lock()
        self._is_synced = True
        self._lock = None if path is None else _acquire_lock(path)
        try:
            with self._translate_errors():
                self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
                weakref.finalize(self, self._connection.close)
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")  # ``sync`` does the rest
                self._connection.executescript(_TABLES)
                row = self._connection.execute("SELECT attempt FROM identity").fetchone()
                self.is_new = row is None
                """Whether no process has subscribed with the file before: see ``mark_used``."""
                self.attempt: str = new_attempt() if row is None else row[0]
                """The attempt of this file's control streams."""
        except BaseException:
            self._release()
            raise

    @classmethod
    def of(cls, home: Path, name: str) -> StateFile:
        """The file of the subscriber ``name`` in ``home``."""
        return cls(make_private_folder(home / "subscribers") / f"{name}.{_FORMAT}.db")

    def mark_used(self) -> None:
        """The broker has a cursor for the file from here on."""
        if self.is_new:
            with self._transaction() as db:
                db.execute("INSERT INTO identity VALUES (?)", (self.attempt,))
            self.is_new = False

    def load(self, run: str) -> SavedRun:
        """What is kept of ``run``; empty if nothing is."""
        with self._transaction() as db:
            row = db.execute("SELECT state, context FROM runs WHERE run=?", (run,)).fetchone()
            seqs = db.execute("SELECT stream, seq FROM next_seqs WHERE run=?", (run,)).fetchall()
        saved = SavedRun(next_seqs={Stream.parse(stream): seq for stream, seq in seqs})
        if row is not None:
            saved.state, saved.context = json.loads(row[0]), json.loads(row[1])
        return saved

    def save(
        self,
        run: str,
        state: str,
        context: Mapping[str, Any],
        next_seqs: Mapping[Stream, int],
        publications: Sequence[Publication],
    ) -> None:
        """Keep all of it, or nothing; ``state`` is JSON."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (run, state, json.dumps(context), time.time()),
            )
            db.executemany(
                "INSERT OR REPLACE INTO next_seqs VALUES (?, ?, ?)",
                [(str(stream), run, seq) for stream, seq in next_seqs.items()],
            )
            _insert(db, publications)

    def publish(self, publication: Publication) -> None:
        """Keep what is to be published whatever becomes of the batch."""
        with self._transaction() as db:
            _insert(db, [publication])

    def pending_streams(self) -> list[Stream]:
        """Streams that have something to be published."""
        with self._transaction() as db:
            rows = db.execute("SELECT stream FROM publications GROUP BY stream ORDER BY min(id)")
            return [Stream.parse(stream) for (stream,) in rows.fetchall()]

    def pending(self, stream: Stream, next_seq: int, limit: int) -> list[Pending]:
        """The first publications of ``stream``, numbered from ``next_seq``, the journal's next.

        Those the journal has are removed. The numbers are kept, so that what was sent before a
        crash is recognised by its number when the broker is asked again.
        """
        with self._transaction() as db:
            name = str(stream)
            db.execute("DELETE FROM publications WHERE stream=? AND seq<?", (name, next_seq))
            rows = db.execute(
                "SELECT id, kind, step, epoch, time, data FROM publications"
                " WHERE stream=? ORDER BY id LIMIT ?",
                (name, limit),
            ).fetchall()
            numbered = [(seq, row[0]) for seq, row in enumerate(rows, next_seq)]
            db.executemany("UPDATE publications SET seq=? WHERE id=?", numbered)
        return [
            Pending(
                seq,
                Publication(
                    stream, kind, step, epoch, at, None if data is None else json.loads(data)
                ),
            )
            for seq, (_, kind, step, epoch, at, data) in enumerate(rows, next_seq)
        ]

    def discard(self, stream: Stream) -> int:
        """Remove what was to be published on ``stream``; how many there were."""
        with self._transaction() as db:
            return db.execute("DELETE FROM publications WHERE stream=?", (str(stream),)).rowcount

    def sync(self) -> None:
        """Make every transaction so far survive a power cut; call before the cursor moves."""
        with self._sync_lock:
            if self._is_synced or self._path is None:
                return
            self._is_synced = True
            with contextlib.suppress(FileNotFoundError):  # everything is in the main file then
                fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)

    def prune(self, now: float | None = None) -> None:
        """Remove runs that did not change for ``RETENTION_SECONDS``."""
        cutoff = (time.time() if now is None else now) - RETENTION_SECONDS
        with self._transaction() as db:
            db.execute(
                "DELETE FROM next_seqs WHERE run IN (SELECT run FROM runs WHERE time<?)", (cutoff,)
            )
            db.execute("DELETE FROM runs WHERE time<?", (cutoff,))

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translate_errors(), self._mutex:
            with self._connection:
                yield self._connection
            self._is_synced = False  # after the commit, or ``sync`` could come between

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateFileError(
                f"the state file {self._path or 'in memory'} cannot be used ({error}): free disk "
                "space, check its permissions, or move it away if it is damaged"
            ) from error


def _insert(db: sqlite3.Connection, publications: Sequence[Publication]) -> None:
    db.executemany(
        "INSERT INTO publications (stream, kind, step, epoch, time, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (str(p.stream), p.kind, p.step, p.epoch, p.time, json.dumps(p.data))
            for p in publications
        ],
    )


def _acquire_lock(path: Path) -> FileLock:
    try:
        return FileLock(path.with_suffix(".lock"), wait=False)
    except BlockingIOError:
        raise AddressInUse(
            "the state file", str(path), "a subscriber of this name runs on this home already"
        ) from None
