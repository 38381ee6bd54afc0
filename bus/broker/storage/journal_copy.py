"""A copy of a journal in a backup: made while the broker writes, and used by another broker."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineside.bus.broker.storage.sqlite_errors import translate

_BUSY_SECONDS = 10.0


@dataclass(frozen=True)
class CursorRows:
    """The places of the durable readers at one moment, as the rows of the journal."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


def read_cursors(path: Path) -> CursorRows:
    """The places of the durable readers in a journal, which its broker may be using.

    Raises:
        JournalError: it cannot be read.
    """
    with _open(path) as db:
        found = db.execute("SELECT * FROM cursors")
        return CursorRows(tuple(column[0] for column in found.description), found.fetchall())


def set_cursors(path: Path, cursors: CursorRows) -> None:
    """Give the readers in a copy the places that they had earlier.

    A copy holds their newest places. Their own states were copied before it and are older, and what
    lies between would never be delivered to them. A name without an earlier place gets none.

    Raises:
        JournalError: it cannot be written.
    """
    places = ", ".join("?" * len(cursors.columns))
    names = ", ".join(f'"{name}"' for name in cursors.columns)
    with _open(path) as db, db:
        db.execute("DELETE FROM cursors")
        db.executemany(
            f"INSERT INTO cursors ({names}) VALUES ({places})",  # noqa: S608 - names of columns
            cursors.rows,
        )


def begin_anew(path: Path) -> tuple[str, str]:
    """Make a copy a journal of its own; the id that it had, and its new one.

    Entries to come get offsets that the original may have used for others. By the new id each
    reader notices that, and begins again. Readers are as recent as the copy, or its retention would
    forget them and their entries before they can connect.

    Raises:
        JournalError: it cannot be written.
    """
    new, now = secrets.token_hex(8), time.time()
    with _open(path) as db, db:
        old: str = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        db.execute("UPDATE meta SET value = ? WHERE key = 'id'", (new,))
        lowest = db.execute("SELECT min(offset) FROM cursors").fetchone()[0]
        if lowest is not None:
            db.execute("UPDATE entries SET time = ? WHERE offset > ?", (now, lowest))
        db.execute("UPDATE cursors SET time = ?", (now,))
    return old, new


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as db:
            yield db
    except sqlite3.Error as error:
        raise translate(error, path) from error
