"""Text that others wrote, as it may stand in a log and on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` on one line and without effects: what is not to be seen stands as Python writes it,
    as ``\\n`` and ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
