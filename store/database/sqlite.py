"""SQLite's side of a store: its file, and how connections to it behave."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from lineside.bus.errors import StoreError
from lineside.bus.filesystem import network_filesystem_type
from lineside.bus.settings import make_private_folder

log = logging.getLogger("lineside")

BUSY_TIMEOUT_SECONDS = 5.0
"""How long one statement waits for another process's lock before it says so."""
WRITE_OPTION = "lineside_writes"
"""The execution option of a connection whose transactions write: they take the lock at once."""


def make_engine(url: URL) -> Engine:
    """An engine on the file that ``url`` names; it is never made by connecting to it."""
    path = url.database or ""
    engine = create_engine(
        url, pool_size=4, max_overflow=60, creator=functools.partial(_connect, path)
    )
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "connect", functools.partial(_on_connect, path))
    event.listen(engine, "checkout", functools.partial(_on_checkout, path))
    return engine


def prepare(path: Path, create: bool) -> None:
    """See to it that the file is there, made if ``create``; warn if it is on a network.

    Raises:
        StoreError: it is not there.
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
    # What a removed store left behind would be read into the new one.
    for left in (Path(f"{path}-wal"), Path(f"{path}-shm")):
        left.unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as fresh:
        # Both only take before the first table is made.
        fresh.execute("PRAGMA auto_vacuum = INCREMENTAL")
        fresh.execute("PRAGMA journal_mode = WAL")


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """One process at a time."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _connect(path: str) -> sqlite3.Connection:
    raw = sqlite3.connect(
        f"file:{quote(path)}?mode=rw",  # never makes a file: an empty one would be no store
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        check_same_thread=False,  # a pooled connection is used by one thread at a time
        isolation_level=None,  # SQLAlchemy's BEGIN is ours to choose, in _on_begin
    )
    for pragma in (
        "foreign_keys = ON",
        "synchronous = NORMAL",  # what power loss takes is read again: the offset goes with it
        "temp_store = MEMORY",
        "cache_size = -32000",  # KiB
        "journal_size_limit = 67108864",
    ):
        raw.execute(f"PRAGMA {pragma}")
    return raw


def _on_connect(path: str, _raw: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    record.info["file"] = _identity(path)


def _on_checkout(
    path: str, _raw: sqlite3.Connection, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Somebody may have removed or replaced the file; what is written to the old one is lost."""
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
