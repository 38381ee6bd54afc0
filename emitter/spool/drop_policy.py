"""The order in which a full spool drops events, and the account of dropped ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lineside.bus.protocol.event_kinds import (
    DROP_FIRST,
    DROP_LAST,
    DROP_SECOND,
    EVENT_KINDS,
    event_kind,
)

__all__ = ["DROP_FIRST", "DROP_LAST", "DROP_SECOND", "DroppedRange", "drop_level"]

_LEVELS = {kind.name: kind.drop_level for kind in EVENT_KINDS}


def drop_level(kind: str) -> int:
    """The drop level of ``kind``."""
    level = _LEVELS.get(kind)
    return event_kind(kind).drop_level if level is None else level


class DroppedRange:
    """The events dropped for one reason, from the first one until that reason ends.

    ``why`` is ``cap`` (the spool is full), ``disk`` (a write failed) or ``removed`` (segments were
    deleted before they were shipped; their kinds are then unknown).
    """

    def __init__(self, why: str, first: int) -> None:
        self.why = why
        self.first = first
        self.end = first
        self.level = DROP_LAST
        self._kinds: Counter[str] = Counter()

    def add(self, seq: int, kind: str, level: int) -> None:
        """Count one dropped event."""
        self.end = seq + 1
        self.level = min(self.level, level)
        self._kinds[kind] += 1

    def add_range(self, end: int) -> None:
        """Count every event before ``end``, of unknown kinds."""
        self.end = end

    def data(self) -> dict[str, Any]:
        """The data of the ``gap`` record: seqs ``first`` to ``end`` (excluded), counts by kind."""
        return {
            "first": self.first,
            "end": self.end,
            "kinds": dict(self._kinds),
            "why": self.why,
        }
