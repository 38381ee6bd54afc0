"""The journal in one SQLite file."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

from lineside.bus.broker.storage.journal import FORGOTTEN, NO_OWNERS, Cursor, Write
from lineside.bus.broker.storage.sqlite_errors import DamagedRow, translate
from lineside.bus.broker.storage.sqlite_scan import SqliteScan, entry_checksum
from lineside.bus.broker.storage.stream_index import StreamIndex
from lineside.bus.errors import AddressInUse, JournalError, StreamNameError
from lineside.bus.file_lock import FileLock
from lineside.bus.filesystem import network_filesystem_type
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import MAX_RECORDS
from lineside.bus.protocol.patterns import Patterns

log = logging.getLogger("lineside")

JOURNAL_VERSION = 1
_PAGE_BYTES = 16_384  # half the CPU of 4 KiB for entries of some 14 KiB; SQLite's own is 4 KiB
_LOG_BYTES = 64 << 20  # of the write-ahead log, once no other process reads
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " next_seq INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    # A blob of NULL is a gap. The checksum covers the numbers: SQLite keeps none, and one wrong bit
    # in them would cost a stream more than one batch. Records in the blob have their own.
    "CREATE TABLE entries (offset INTEGER PRIMARY KEY, stream INTEGER NOT NULL,"
    " first_seq INTEGER NOT NULL, records INTEGER NOT NULL, time REAL NOT NULL,"
    " checksum INTEGER NOT NULL, blob BLOB)",
    "CREATE INDEX entries_by_stream ON entries (stream)",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, offset INTEGER NOT NULL, time REAL NOT NULL)",
)
# Not among the above: older journals get them too.
_CONFIRMED = (
    "ALTER TABLE cursors ADD COLUMN confirmed INTEGER",
    "ALTER TABLE cursors ADD COLUMN streams TEXT NOT NULL DEFAULT ''",
)
_LATER_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS owners (what TEXT PRIMARY KEY, owner TEXT NOT NULL)",
    # The first offset of each commit, and the records before it since this table was made.
    "CREATE TABLE IF NOT EXISTS commits (offset INTEGER PRIMARY KEY, records INTEGER NOT NULL)",
)
_NEXT_COMMIT = "SELECT offset, records FROM commits WHERE offset >= ? ORDER BY offset LIMIT 1"
_LAST_COMMIT = "SELECT offset, records FROM commits ORDER BY offset DESC LIMIT 1"
# A gap may have any size: without a limit a few would pass the integers of SQLite.
_RECORDS = "SELECT coalesce(sum(min(records, ?)), 0) FROM entries WHERE offset >= ? AND offset < ?"
_COUNTED_ENTRIES = 16_384  # more than one commit can have; older ones may have no row in commits


class SqliteJournal:
    """A journal in one SQLite file (write-ahead log, ``synchronous=FULL``), owned by one process.

    Other processes may read the file meanwhile, a backup for example.

    Raises:
        AddressInUse: another process has it open.
        JournalDamaged: SQLite cannot make sense of the file.
        JournalError: it cannot be opened, or was written by a newer version.
    """

    id: str
    head: int
    first: int

    def __init__(self, path: Path) -> None:
        self.path = path
        kind = network_filesystem_type(path.parent)
        if kind:
            log.warning(
                "the journal %s is on a network file system (%s): locks and fsync are often not "
                "reliable there; set LINESIDE_HOME to a local disk",
                path,
                kind,
            )
        self._lock = _acquire_lock(path)
        try:
            # SQLite gives the files beside this one its mode. An error shows when SQLite opens it.
            with suppress(OSError):
                path.touch(mode=0o600)
                path.chmod(0o600)
            with self._translating_errors():
                self._db = self._connect()
                try:
                    self._load()
                except BaseException:
                    self._db.close()
                    raise
        except BaseException:
            self._lock.release()
            raise

    def append(
        self,
        writes: Sequence[Write],
        cursors: Mapping[str, Cursor],
        expire_before: int = 0,
        owners: Mapping[str, str] = NO_OWNERS,
    ) -> int:
        """Commit writes, cursors, expiry and owners together.

        Raises:
            JournalFull: the disk is full; nothing was committed, everything before can be read.
            JournalError: SQLite failed in another way; nothing was committed.
        """
        first, now = self.head + 1, time.time()
        ids, new = self._index.ids, dict[Stream, int]()
        next_seqs: dict[Stream, int] = {}
        rows = []
        for offset, (stream, first_seq, records, blob) in enumerate(writes, first):
            id_ = ids.get(stream) or new.get(stream)
            if id_ is None:
                id_ = new[stream] = len(ids) + len(new) + 1
            checksum = entry_checksum(offset, id_, first_seq, records, blob is None)
            rows.append((offset, id_, first_seq, records, now, checksum, blob))
            next_seqs[stream] = first_seq + records
        with self._transaction() as db:
            db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            if rows:
                db.execute("INSERT INTO commits VALUES (?, ?)", (first, self._records))
            db.executemany(
                "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)",
                [
                    (ids.get(stream) or new[stream], str(stream), seq, _checksum(stream, seq))
                    for stream, seq in next_seqs.items()
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO cursors (name, offset, confirmed, streams, time)"
                " VALUES (?, ?, ?, ?, ?)",
                [(name, *cursor, now) for name, cursor in cursors.items()],
            )
            if forgotten := [name for name, cursor in cursors.items() if cursor == FORGOTTEN]:
                db.executemany("DELETE FROM cursors WHERE name = ?", [(n,) for n in forgotten])
            if owners:
                db.executemany("INSERT OR REPLACE INTO owners VALUES (?, ?)", owners.items())
            if expire_before > self.first:
                db.execute("DELETE FROM entries WHERE offset < ?", (expire_before,))
                db.execute("DELETE FROM commits WHERE offset < ?", (expire_before,))
        for stream, id_ in new.items():
            self._index.add(stream, id_)
        self._next_seqs.update(next_seqs)
        self._cursors.update(cursors)
        for name in forgotten:
            del self._cursors[name]
        self.owners.update(owners)
        self.head += len(rows)
        self._records += sum(min(write.records, MAX_RECORDS) for write in writes)
        self.first = max(self.first, expire_before)
        return first

    def next_seq(self, stream: Stream) -> int:
        """0 for a stream never seen."""
        return self._next_seqs.get(stream, 0)

    def backlog(self, after: int) -> tuple[int, float]:
        """Records after an offset (0 if their number is not known), and the seconds they wait.

        Raises:
            JournalError: it cannot be read now.
        """
        start = max(after + 1, self.first)
        if start > self.head:
            return 0, 0.0
        db, now = self._db, time.time()
        with self._translating_errors():
            found = db.execute("SELECT time FROM entries WHERE offset = ?", (start,)).fetchone()
            seconds = max(0.0, now - found[0]) if found else 0.0
            end, before = db.execute(_NEXT_COMMIT, (start,)).fetchone() or (
                self.head + 1,
                self._records,
            )
            if end - start > _COUNTED_ENTRIES:
                return 0, seconds
            records = db.execute(_RECORDS, (MAX_RECORDS, start, end)).fetchone()[0]
        return max(0, records + self._records - before), seconds

    def scan(self, patterns: Patterns) -> SqliteScan:
        """Read the entries of ``patterns``."""
        return SqliteScan(self._db, self.path, self._index, patterns)

    def cursors(self) -> dict[str, Cursor]:
        """The cursor of each durable reader."""
        return self._cursors

    def forget_cursors(self, before: float, keep: Collection[str]) -> list[str]:
        """Forget cursors not moved since ``before`` (seconds since the epoch), but for ``keep``."""
        with self._transaction() as db:
            rows = db.execute("SELECT name FROM cursors WHERE time < ?", (before,)).fetchall()
            names = [name for (name,) in rows if name not in keep]
            db.executemany("DELETE FROM cursors WHERE name = ?", [(name,) for name in names])
        for name in names:
            del self._cursors[name]
        return names

    def streams(self) -> Collection[Stream]:
        """Every stream that was ever appended to."""
        return self._index.ids.keys()

    def oldest(self) -> Iterator[tuple[int, float, int, int]]:
        """Offset, time of commit, records and bytes of each entry, the oldest first."""
        with self._translating_errors():
            yield from self._db.execute(
                "SELECT offset, time, records, coalesce(length(blob), 0) FROM entries"
                " ORDER BY offset"
            )

    def size(self) -> tuple[int, int]:
        """Bytes in use, and bytes that are free inside the file."""
        with self._translating_errors():
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            free = self._db.execute("PRAGMA freelist_count").fetchone()[0]
        return (pages - free) * self._page_bytes, free * self._page_bytes

    def release_space(self, size: int) -> None:
        """Return up to ``size`` free bytes to the file system."""
        with self._translating_errors():
            # One page a step, and only a script is stepped to its end.
            self._db.executescript(f"PRAGMA incremental_vacuum({size // self._page_bytes})")

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in unless another process reads it."""
        self._db.close()
        self._lock.release()

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._open(locking_mode="NORMAL")
        except sqlite3.OperationalError as error:
            if "is locked" in str(error):
                raise
            db = self._open(locking_mode="EXCLUSIVE")
            log.warning(
                "the journal %s cannot be shared (SQLite: %s): no backup can be made until the "
                "broker is restarted; full disks and network file systems do that",
                self.path,
                error,
            )
            return db

    def _open(self, *, locking_mode: str) -> sqlite3.Connection:
        """Open the file; the mode EXCLUSIVE needs no file of shared memory beside it."""
        db = sqlite3.connect(self.path, isolation_level=None, timeout=2.0)
        try:
            db.execute(f"PRAGMA locking_mode = {locking_mode}")
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        if not db.execute("PRAGMA page_count").fetchone()[0]:
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # While another process reads, as a backup does, the log grows: it is cut afterwards.
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
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
        for statement in _LATER_SCHEMA:
            db.execute(statement)
        if "confirmed" not in [row[1] for row in db.execute("PRAGMA table_info(cursors)")]:
            for statement in _CONFIRMED:
                db.execute(statement)
        db.execute("COMMIT")

    def _load(self) -> None:
        db = self._db
        self._page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        self.id = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        first = db.execute("SELECT min(offset) FROM entries").fetchone()[0]
        self.head = db.execute("SELECT max(offset) FROM entries").fetchone()[0] or 0
        self.first = first or self.head + 1
        offset, records = db.execute(_LAST_COMMIT).fetchone() or (self.head + 1, 0)
        counted = db.execute(_RECORDS, (MAX_RECORDS, offset, self.head + 1)).fetchone()[0]
        self._records: int = records + counted
        self._index = StreamIndex()
        self._next_seqs: dict[Stream, int] = {}
        for id_, name, next_seq, checksum in db.execute("SELECT * FROM streams"):
            stream = _stream(name, next_seq, checksum)
            self._index.add(stream, id_)
            self._next_seqs[stream] = next_seq
        self._cursors: dict[str, Cursor] = {
            name: Cursor(*cursor)
            for name, *cursor in db.execute(
                "SELECT name, offset, coalesce(confirmed, offset), streams FROM cursors"
            )
        }
        self.owners: dict[str, str] = dict(db.execute("SELECT what, owner FROM owners"))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translating_errors():
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
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, DamagedRow) as error:
            raise translate(error, self.path) from error


def lock_path(journal: Path) -> Path:
    """The file that the process which writes ``journal`` has locked."""
    return journal.with_name(f"{journal.name}.lock")


def _acquire_lock(path: Path) -> FileLock:
    try:
        return FileLock(lock_path(path), wait=False)
    except BlockingIOError:
        hint = "another broker has it open; stop that one first"
        raise AddressInUse("the journal", str(path), hint) from None
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be used: {error.strerror}") from error


def _stream(name: str, next_seq: int, checksum: int) -> Stream:
    try:
        stream = Stream.parse(name)
    except (StreamNameError, AttributeError) as error:
        raise DamagedRow(f"an invalid stream: {error}") from error
    if checksum != _checksum(stream, next_seq):
        raise DamagedRow(f"the row of stream {stream} does not match its checksum")
    return stream


def _checksum(stream: Stream, next_seq: int) -> int:
    return crc32(f"{stream} {next_seq}".encode())
