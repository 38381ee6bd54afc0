"""How long the journal keeps what it has: by age and size, and longer for those still reading."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from lineside.bus.broker.sqlite_journal import SqliteJournal

HELD_LONGER = 4
"""What a durable reader has not processed is kept this many times as long, and as large."""
_STEP_ENTRIES = 4096
_STEP_BYTES = 32 << 20
_LOW_WATER = 0.95  # of the size, so that a full journal is not trimmed at every commit
_SPARE_BYTES = 64 << 20  # free space kept inside the file for what comes
_GIVE_BACK_BYTES = 16 << 20  # at once


@dataclass(frozen=True)
class Expiry:
    """Entries ``first`` (included) to ``end`` (excluded) are to go; ``readers`` had not had them
    all."""

    first: int
    end: int
    records: int
    size: int
    readers: tuple[str, ...]


class Retention:
    """Decides what goes, a bounded step at a time. Deleting it is the journal's.

    Entries older than ``keep_days`` or beyond ``keep_bytes`` go, unless a durable cursor is before
    them; those go when they are ``HELD_LONGER`` times as old, or as many.
    """

    def __init__(self, journal: SqliteJournal, keep_days: float, keep_bytes: int) -> None:
        self._journal = journal
        self._keep_seconds = keep_days * 86_400
        self._keep_bytes = keep_bytes
        self._trimming = False

    def due(self, now: float) -> Expiry | None:
        """What is to go now, ``now`` being seconds since the epoch; None when nothing is."""
        used, _ = self._journal.size()
        self._trimming = used > self._keep_bytes * (_LOW_WATER if self._trimming else 1)
        cursors = self._journal.cursors()
        floor = min(cursors.values(), default=self._journal.head)
        gone = records = taken = 0
        for offset, time, count, size in islice(self._journal.oldest(), _STEP_ENTRIES):
            longer = HELD_LONGER if offset > floor else 1
            old = now - time > self._keep_seconds * longer
            excess = used - taken - self._keep_bytes * longer * _LOW_WATER
            surplus = self._trimming and excess > 0
            # The newest stays, or the word that everything expired would expire next.
            if not (old or surplus) or taken > _STEP_BYTES or offset == self._journal.head:
                break
            gone, records, taken = offset, records + count, taken + size
        if not gone:
            return None
        readers = tuple(sorted(name for name, offset in cursors.items() if offset < gone))
        return Expiry(self._journal.first, gone + 1, records, taken, readers)

    def forgotten(self, now: float, connected: Collection[str]) -> list[str]:
        """Forget durable readers that have not been here for ``HELD_LONGER`` times the age."""
        return self._journal.forget_cursors(now - self._keep_seconds * HELD_LONGER, connected)

    def give_back(self) -> None:
        """Return a piece of the file's free space, beyond a spare, to the file system."""
        used, free = self._journal.size()
        spare = max(_SPARE_BYTES, used // 8)
        if free > spare:
            self._journal.give_back(min(free - spare, _GIVE_BACK_BYTES))
