"""Escape foreign text for logs and terminals."""

from __future__ import annotations

CONTROL_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160)) if code != 10}
"""For ``str.translate``: control characters but the newline as ``\\u001b``, as JSON has them."""


def printable(text: str) -> str:
    """``text`` on one line, with unprintable characters escaped as ``\\n`` and ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
