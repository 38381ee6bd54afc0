"""Translate SQLite's errors into Lineside's."""

from __future__ import annotations

from pathlib import Path

from lineside.bus.errors import JournalDamaged, JournalError, JournalFull


class DamagedRow(Exception):
    """An invalid row, or one that does not match its checksum."""


def translate(error: Exception, path: Path) -> JournalError:
    """The error to raise for one of SQLite's, or a ``DamagedRow``, of the journal at ``path``.

    The text decides: SQLite's error codes are not available before Python 3.11.
    """
    text = str(error)
    if "is full" in text:
        return JournalFull(f"the disk under the journal {path} is full: free some space")
    if "is locked" in text:
        return JournalError(
            f"the journal {path} is locked: a program that is not Lineside's writes to it; end it"
        )
    if isinstance(error, DamagedRow) or any(
        marker in text for marker in ("malformed", "not a database", "Could not decode")
    ):
        return JournalDamaged(
            f"the journal {path} is damaged ({text}): move it aside and start the broker again; "
            "what the spools still hold is sent again"
        )
    return JournalError(f"the journal {path} cannot be used (SQLite: {text})")
