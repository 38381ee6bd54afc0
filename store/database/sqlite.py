"""A store in SQLite: its file and its connections."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from lineside.bus.errors import StoreError
from lineside.bus.file_lock import FileLock
from lineside.bus.filesystem import network_filesystem_type
from lineside.bus.settings import make_private_folder

log = logging.getLogger("lineside")

BUSY_TIMEOUT_SECONDS = 5.0
"""How long one statement waits for another process's lock before it fails."""
_VACUUM_PAGES = 1000
_SIDE_FILES = ("-wal", "-shm")
_DAMAGE_TEXTS = ("disk image is malformed", "file is not a database", "malformed database schema")
_HEADER_BYTES = 100
_HEADER = struct.Struct(">16x H 6x I I 60x I")
_DAMAGED = ".damaged-"
WRITE_OPTION = "lineside_writes"
"""The execution option of connections that write: their transactions lock the file at BEGIN."""


def make_engine(url: URL) -> Engine:
    """An engine for the file in ``url``; connecting never creates the file."""
    path = url.database or ""
    engine = create_engine(
        url, pool_size=4, max_overflow=60, creator=functools.partial(_connect, path)
    )
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "connect", functools.partial(_on_connect, path))
    event.listen(engine, "checkout", functools.partial(_on_checkout, path))
    return engine


def prepare(path: Path, create: bool) -> None:
    """Check that the file exists, or create it if ``create``; warn about network file systems.

    Raises:
        StoreError: there is no such file.
        SettingsError: its folder cannot be made or written.
    """
    if not create:
        if not path.is_file():
            raise StoreError(
                f"there is no store at {path}: start one with `lineside up`, "
                "or set LINESIDE_STORE to where it is"
            )
    else:
        make_private_folder(path.parent)
        with _folder_lock(path.parent):
            if not path.exists() or not path.stat().st_size:
                _make_file(path)
    kind = network_filesystem_type(path)
    if kind:
        log.warning(
            "the store %s is on a network file system (%s), where SQLite's locks and shared memory "
            "are not reliable: set LINESIDE_STORE to a local path or to PostgreSQL",
            path,
            kind,
        )


def _make_file(path: Path) -> None:
    # SQLite would apply the log of a removed store to the new one.
    for suffix in _SIDE_FILES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as fresh:
        # Both take effect only before the first table is made.
        fresh.execute("PRAGMA auto_vacuum = INCREMENTAL")
        fresh.execute("PRAGMA journal_mode = WAL")


def is_damage(text: str) -> bool:
    """Whether ``text`` is SQLite's message for a file that it cannot make sense of."""
    return any(damage in text for damage in _DAMAGE_TEXTS)


class TruncationCheck:
    """Notices missing pages of the file ``path``; a connection that has them in memory does not.

    It keeps the file open. When a process closes a file, the system drops all locks that this
    process has on it, those of SQLite's connections too; another process would then take itself for
    the last one, and remove the write-ahead log that this one goes on to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._identity: tuple[int, int] | None = None

    def is_truncated(self) -> bool:
        """Whether pages are missing; False if there is no file.

        A checkpoint that was killed or found the disk full leaves a file that is shorter than its
        header states, and the pages are in the write-ahead log. So the checkpoint is done again,
        and if it can be, SQLite reads the whole file.
        """
        if not self._lacks_pages():
            return False
        try:
            with contextlib.closing(_connect(str(self._path))) as raw:
                is_busy, logged, written = raw.execute("PRAGMA wal_checkpoint").fetchone()
                if is_busy or logged != written:
                    return False
                found: str = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            return is_damage(str(error))
        return found != "ok" or self._lacks_pages()

    def close(self) -> None:
        """Close the file; the process must have no connection to it any more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lacks_pages(self) -> bool:
        """Whether the file is shorter than its header states."""
        file = self._open()
        if file is None:
            return False
        header, size = os.pread(file.fileno(), _HEADER_BYTES, 0), os.fstat(file.fileno()).st_size
        if len(header) < _HEADER_BYTES:
            return True
        page_size: int
        page_size, changes, pages, changes_at_pages = _HEADER.unpack_from(header)
        is_count_valid: bool = changes == changes_at_pages
        return is_count_valid and size < pages * (65536 if page_size == 1 else page_size)

    def _open(self) -> BinaryIO | None:
        """The file, opened once; None if there is none."""
        identity = _identity(str(self._path))
        if identity != self._identity:
            self.close()  # of a file that is no store any more
            self._identity = identity
            with contextlib.suppress(FileNotFoundError):
                self._file = self._path.open("rb", buffering=0)
        return self._file


def set_aside(path: Path) -> Path:
    """Rename a damaged file and those beside it; the new path, ``NAME.damaged-TIME`` in UTC."""
    time_text = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}{_DAMAGED}{time_text}")
    with _folder_lock(path.parent):
        for suffix in ("", *_SIDE_FILES):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def files_set_aside(path: Path) -> list[Path]:
    """The damaged files that ``set_aside`` renamed and that are still there, newest first."""
    found = path.parent.glob(f"{path.name}{_DAMAGED}*")
    return sorted((one for one in found if not one.name.endswith(_SIDE_FILES)), reverse=True)


def reclaim_space(raw: sqlite3.Connection) -> None:
    """Return free pages to the file system in small steps, and empty the write-ahead log."""
    while raw.execute("PRAGMA freelist_count").fetchone()[0]:
        before = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        if raw.execute("PRAGMA page_count").fetchone()[0] == before:
            break  # a file without incremental vacuum, so not made by ``prepare``
    # The writer waits for this checkpoint, so it must not wait long for readers.
    raw.execute("PRAGMA busy_timeout = 500")
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    # The folder itself is locked: the lock leaves no file beside the store.
    with FileLock(folder):
        yield


def _connect(path: str) -> sqlite3.Connection:
    raw = sqlite3.connect(
        f"file:{quote(path)}?mode=rw",  # never creates a file: an empty one is no store
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        check_same_thread=False,  # a pooled connection is used by one thread at a time
        isolation_level=None,  # _on_begin sends BEGIN
    )
    for pragma in (
        "foreign_keys = ON",
        "synchronous = NORMAL",  # power loss takes rows and offset alike: they are read again
        "temp_store = MEMORY",
        "cache_size = -4000",  # KiB, of each connection
        "journal_size_limit = 67108864",
    ):
        raw.execute(f"PRAGMA {pragma}")
    return raw


def _on_connect(path: str, _raw: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    record.info["file"] = _identity(path)


def _on_checkout(
    path: str, _raw: sqlite3.Connection, record: ConnectionPoolEntry, _proxy: object
) -> None:
    # Writes to a file that another process has removed or replaced would be lost.
    if record.info["file"] != _identity(path):
        raise DisconnectionError


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE_OPTION)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
