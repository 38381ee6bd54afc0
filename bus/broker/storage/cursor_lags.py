"""Reads from a broker's journal how far its durable readers are behind, beside the broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

_TIMEOUT_SECONDS = 1.0


class CursorLag(NamedTuple):
    """A durable name, since when an entry waits for it (None if none does), and its last move."""

    name: str
    waiting_since: float | None
    moved_at: float


def read_cursor_lags(path: Path) -> list[CursorLag]:
    """Each durable name in the journal ``path``, with the time of the first entry after its cursor.

    Empty without a journal, or if it cannot be read now.
    """
    if not path.exists():
        return []
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_TIMEOUT_SECONDS)
        ) as journal:
            return list(_lags(journal))
    except sqlite3.Error:
        return []


def _lags(journal: sqlite3.Connection) -> Iterator[CursorLag]:
    next_entry = "SELECT time FROM entries WHERE offset > ? ORDER BY offset LIMIT 1"
    cursors = "SELECT name, offset, time FROM cursors ORDER BY name"
    for name, offset, moved_at in journal.execute(cursors).fetchall():
        found = journal.execute(next_entry, (offset,)).fetchone()
        yield CursorLag(name, found[0] if found else None, moved_at)
