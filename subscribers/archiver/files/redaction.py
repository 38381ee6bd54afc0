"""The functions that find secrets: the process that starts an archiver hands them to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_KEY_MARK = "PRIVATE KEY"
_KEY_BEGIN = f"-----BEGIN {_KEY_MARK}-----"


@dataclass(frozen=True)
class Redaction:
    """``text`` returns a text without secrets. The others mask values of secret names in place.

    They return data of dicts, lists, texts and numbers: ``mask`` without secret texts and numbers,
    ``mask_texts`` with its numbers as they were.
    """

    text: Callable[[str], str]
    mask: Callable[[Any], Any]
    mask_texts: Callable[[Any], Any]

    def without_key_lines(self, before: Sequence[Any], after: list[Any]) -> list[Any]:
        """``after``, the list ``before`` redacted, without the lines of a private key in it."""
        if not any(isinstance(item, str) and _KEY_MARK in item for item in before):
            return after
        return [self.text(_KEY_BEGIN) if isinstance(item, str) else item for item in after]
