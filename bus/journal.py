"""The journal: every batch the bus accepted, numbered, on disk before anybody hears of it."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from lineside.bus.errors import AddressInUse, JournalError, JournalFull
from lineside.bus.events import Stream
from lineside.bus.filesystem import network_filesystem

log = logging.getLogger("lineside")

JOURNAL_VERSION = 1
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " next_seq INTEGER NOT NULL)",
    # The blob comes last, so that reading the rest touches none of its pages. NULL is a gap.
    "CREATE TABLE entries (offset INTEGER PRIMARY KEY, stream INTEGER NOT NULL,"
    " first_seq INTEGER NOT NULL, count INTEGER NOT NULL, time REAL NOT NULL, blob BLOB)",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, offset INTEGER NOT NULL, time REAL NOT NULL)",
)


class Write(NamedTuple):
    """What is to be appended: ``records`` of them, or with ``blob`` None a gap of as many seqs."""

    stream: Stream
    first_seq: int
    records: int
    blob: bytes | None


class Entry(NamedTuple):
    """What was appended, and its place in the journal. Offsets start at 1 and have no holes."""

    offset: int
    stream: Stream
    first_seq: int
    records: int
    blob: bytes | None


class Journal(Protocol):
    """What the broker needs of a log. ``head`` is the newest offset (0 when nothing was ever
    appended), ``first`` the oldest one still kept (``head + 1`` if none is)."""

    id: str
    head: int
    first: int

    def append(self, writes: Sequence[Write], cursors: Mapping[str, int]) -> int:
        """Commit all of it or nothing; the offset of the first write, the others follow."""

    def next_seq(self, stream: Stream) -> int:
        """The seq after the last one appended to ``stream``."""

    def read(self, after: int, limit: int) -> list[Entry]:
        """Entries with an offset greater than ``after``, in order, about ``limit`` bytes."""

    def cursors(self) -> dict[str, int]:
        """How far each durable reader is."""


class SqliteJournal:
    """A journal in one SQLite file (write-ahead log, ``synchronous=FULL``), owned by one process.

    Raises:
        AddressInUse: another process has it open.
        JournalError: it cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        kind = network_filesystem(path.parent)
        if kind:
            log.warning(
                "the journal %s is on a network file system (%s): locks and fsync are often not "
                "reliable there; set LINESIDE_HOME to a local disk",
                path,
                kind,
            )
        with self._translated():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=2.0)
        try:
            with self._translated():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        db = self._db
        # One process owns the file: no shared memory, and a second broker is told.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if not db.execute("PRAGMA page_count").fetchone()[0]:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN EXCLUSIVE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > JOURNAL_VERSION:
            raise JournalError(
                f"the journal {self.path} has version {version}, newer than this Lineside knows "
                f"({JOURNAL_VERSION}): upgrade Lineside, or set LINESIDE_HOME to another folder"
            )
        if version == 0:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('id', ?)", (secrets.token_hex(8),))
            db.execute(f"PRAGMA user_version = {JOURNAL_VERSION}")
        db.execute("COMMIT")
        self.id: str = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        first, head = db.execute("SELECT min(offset), max(offset) FROM entries").fetchone()
        self.head: int = head or 0
        self.first: int = first or self.head + 1
        self._ids: dict[Stream, int] = {}
        self._streams: dict[int, Stream] = {}
        self._next: dict[Stream, int] = {}
        for id_, name, next_seq in db.execute("SELECT id, name, next_seq FROM streams"):
            stream = Stream.parse(name)
            self._ids[stream], self._streams[id_], self._next[stream] = id_, stream, next_seq
        self._cursors: dict[str, int] = dict(db.execute("SELECT name, offset FROM cursors"))

    def append(self, writes: Sequence[Write], cursors: Mapping[str, int]) -> int:
        """Commit writes and cursors together.

        Raises:
            JournalFull: the disk is full; nothing was committed, everything before can be read.
            JournalError: SQLite failed in another way; nothing was committed.
        """
        first, now = self.head + 1, time.time()
        new: dict[Stream, int] = {}
        next_seqs: dict[Stream, int] = {}
        rows = []
        for offset, (stream, first_seq, count, blob) in enumerate(writes, first):
            id_ = self._ids.get(stream) or new.get(stream)
            if id_ is None:
                id_ = new[stream] = len(self._ids) + len(new) + 1
            rows.append((offset, id_, first_seq, count, now, blob))
            next_seqs[stream] = first_seq + count
        with self._transaction() as db:
            db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
            db.executemany(
                "INSERT INTO streams VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET next_seq = excluded.next_seq",
                [(self._ids.get(s) or new[s], str(s), n) for s, n in next_seqs.items()],
            )
            db.executemany(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)",
                [(name, offset, now) for name, offset in cursors.items()],
            )
        for stream, id_ in new.items():
            self._ids[stream], self._streams[id_] = id_, stream
        self._next.update(next_seqs)
        self._cursors.update(cursors)
        self.head += len(rows)
        return first

    def next_seq(self, stream: Stream) -> int:
        """0 for a stream never seen."""
        return self._next.get(stream, 0)

    def read(self, after: int, limit: int) -> list[Entry]:
        """Entries after an offset, at least one if there is any, about ``limit`` bytes of blobs."""
        entries, size = [], 0
        with self._translated():
            for offset, id_, first_seq, count, blob in self._db.execute(
                "SELECT offset, stream, first_seq, count, blob FROM entries"
                " WHERE offset > ? ORDER BY offset",
                (after,),
            ):
                entries.append(Entry(offset, self._streams[id_], first_seq, count, blob))
                size += len(blob or b"")
                if size >= limit:
                    break
        return entries

    def cursors(self) -> dict[str, int]:
        """Durable names and the offset each has processed."""
        return self._cursors

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself on some errors, a full disk among them.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> Exception:
        said = str(error)
        if "is full" in said:
            return JournalFull(f"the disk under the journal {self.path} is full: free some space")
        if "is locked" in said:
            return AddressInUse(
                "the journal", str(self.path), "another broker has it open; stop that one first"
            )
        if "malformed" in said or "not a database" in said:
            return JournalError(
                f"the journal {self.path} is damaged (SQLite: {said}): move it aside and start the "
                "broker again; what the spools still hold is sent again"
            )
        return JournalError(f"the journal {self.path} cannot be used (SQLite: {said})")
