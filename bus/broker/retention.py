"""How long the journal keeps what it has: by age and size, and longer for those still reading."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from lineside.bus.broker.sqlite_journal import SqliteJournal

DURABLE_KEEP_FACTOR = 4
"""What a durable reader has not processed is kept this many times as long, and as large."""
_STEP_ENTRIES = 4096
_STEP_BYTES = 32 << 20
_LOW_WATERMARK = 0.95  # of the size, so that a full journal is not trimmed at every commit
_SPARE_BYTES = 64 << 20  # free space kept inside the file for what comes
_RELEASE_BYTES = 16 << 20  # at once


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
    them; those go when they are ``DURABLE_KEEP_FACTOR`` times as old, or as many.
    """

    def __init__(self, journal: SqliteJournal, keep_days: float, keep_bytes: int) -> None:
        self._journal = journal
        self._keep_seconds = keep_days * 86_400
        self._keep_bytes = keep_bytes
        self._trimming = False

    def next_expiry(self, now: float) -> Expiry | None:
        """What is to go now, ``now`` being seconds since the epoch; None when nothing is."""
        used, _ = self._journal.size()
        self._trimming = used > self._keep_bytes * (_LOW_WATERMARK if self._trimming else 1)
        cursors = self._journal.cursors()
        lowest_cursor = min(cursors.values(), default=self._journal.head)
        last_expired = records = expired_bytes = 0
        for offset, time, count, size in islice(self._journal.oldest(), _STEP_ENTRIES):
            factor = DURABLE_KEEP_FACTOR if offset > lowest_cursor else 1
            old = now - time > self._keep_seconds * factor
            excess = used - expired_bytes - self._keep_bytes * factor * _LOW_WATERMARK
            surplus = self._trimming and excess > 0
            # The newest stays, or the word that everything expired would expire next.
            if not (old or surplus) or expired_bytes > _STEP_BYTES or offset == self._journal.head:
                break
            last_expired, records, expired_bytes = offset, records + count, expired_bytes + size
        if not last_expired:
            return None
        readers = tuple(sorted(name for name, offset in cursors.items() if offset < last_expired))
        return Expiry(self._journal.first, last_expired + 1, records, expired_bytes, readers)

    def forget_idle_readers(self, now: float, connected: Collection[str]) -> list[str]:
        """Forget durable readers that have not been here for ``DURABLE_KEEP_FACTOR`` times the
        age."""
        return self._journal.forget_cursors(
            now - self._keep_seconds * DURABLE_KEEP_FACTOR, connected
        )

    def release_space(self) -> None:
        """Return a piece of the file's free space, beyond a spare, to the file system."""
        used, free = self._journal.size()
        spare = max(_SPARE_BYTES, used // 8)
        if free > spare:
            self._journal.release_space(min(free - spare, _RELEASE_BYTES))
