"""Escape foreign text for logs and terminals."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` on one line, with unprintable characters escaped as ``\\n`` and ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
