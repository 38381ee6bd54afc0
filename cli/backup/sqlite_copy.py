"""Copies SQLite files that other processes write."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from lineside.bus.errors import LinesideError

SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file; a copy needs none of it."""
_MAGIC = b"SQLite format 3\0"
_STEP_PAGES = 1024
_BUSY_SECONDS = 30.0


class CopyError(LinesideError):
    """A file cannot be copied."""


def is_sqlite(path: Path) -> bool:
    """Whether the file begins as one of SQLite's."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def size(path: Path) -> int:
    """The bytes of a file and of its write-ahead log, which a copy takes at most."""
    files = (path, Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def copy(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy ``source`` as of now to the new file ``target``; its writers are not delayed.

    ``on_progress`` gets the pages copied and those there are.

    Raises:
        CopyError: the file cannot be read, or the copy not be written.
    """
    with open(target, "xb", opener=_private):
        pass
    try:
        with (
            contextlib.closing(_connect(source)) as read,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as write,
        ):
            # A copy that is not finished is thrown away, so it needs neither.
            write.execute("PRAGMA journal_mode = OFF")
            write.execute("PRAGMA synchronous = OFF")
            # One transaction for all steps: all pages are of one moment, and no writer's commit
            # makes the copy begin again.
            read.execute("BEGIN")
            read.execute("SELECT count(*) FROM sqlite_master").fetchone()
            read.backup(
                write,
                pages=_STEP_PAGES,
                progress=lambda _, left, pages: on_progress(pages - left, pages),
            )
    except sqlite3.Error as error:
        raise CopyError(
            f"{source} cannot be copied to {target.parent} (SQLite: {error}): `lineside doctor` "
            "checks files and disks"
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    # Reading a file with a write-ahead log needs the right to write beside it.
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
