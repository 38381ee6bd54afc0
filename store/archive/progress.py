"""How far a call of an archive is, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a copy, a check or a restore is: ``done`` of ``total`` bytes.

    ``sent`` counts the bytes that went into the archive; what was there already is only ``done``.
    """

    total: int
    done: int
    sent: int = 0


OnProgress = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Ignore how far it is."""


@dataclass(frozen=True)
class Written:
    """What a write did: ``sent`` bytes, for a checkpoint whose distinct parts are ``stored``.

    ``bytes`` is the size of its files.
    """

    bytes: int
    sent: int
    stored: int


@dataclass(frozen=True)
class Collected:
    """What garbage collection removed."""

    parts: int
    bytes: int
