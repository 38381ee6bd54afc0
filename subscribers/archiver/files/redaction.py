"""The functions that find secrets: the process that starts an archiver hands them to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Redaction:
    """``text`` returns a text without secrets. The others mask values of secret names in place.

    They return data of dicts, lists, texts and numbers: ``mask`` without secret texts and numbers,
    ``mask_texts`` with its numbers as they were.
    """

    text: Callable[[str], str]
    mask: Callable[[Any], Any]
    mask_texts: Callable[[Any], Any]
