"""Decide which journal entries expire: by age and size, later while a durable reader needs them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from lineside.bus.broker.storage.journal import Journal

DURABLE_KEEP_FACTOR = 4
"""Entries that a durable reader has not processed are kept this many times as long and large."""
_STEP_ENTRIES = 4096
_STEP_BYTES = 32 << 20
_LOW_WATERMARK = 0.95  # of the size, so that a full journal is not trimmed at each commit
_SPARE_BYTES = 64 << 20  # free space kept inside the file for later entries
_RELEASE_BYTES = 16 << 20  # at once


@dataclass(frozen=True)
class Expiry:
    """Entries ``first`` (included) to ``end`` (excluded) expire; ``readers`` miss some of them."""

    first: int
    end: int
    records: int
    size: int
    readers: tuple[str, ...]


class Retention:
    """Decides which entries expire, a bounded number at a time. The journal deletes them.

    Entries older than ``keep_days`` or beyond ``keep_bytes`` expire. Entries after a durable cursor
    expire when they are ``DURABLE_KEEP_FACTOR`` times as old, or the journal as large.
    """

    def __init__(self, journal: Journal, keep_days: float, keep_bytes: int) -> None:
        self._journal = journal
        self._keep_seconds = keep_days * 86_400
        self._keep_bytes = keep_bytes
        self._trimming = False

    def next_expiry(self, now: float) -> Expiry | None:
        """The entries that expire at ``now``, in seconds since the epoch; None if none do."""
        used, _ = self._journal.size()
        self._trimming = used > self._keep_bytes * (_LOW_WATERMARK if self._trimming else 1)
        cursors = self._journal.cursors()
        lowest_cursor = min(
            (cursor.offset for cursor in cursors.values()), default=self._journal.head
        )
        last_expired = records = expired_bytes = 0
        for offset, time, count, size in islice(self._journal.oldest(), _STEP_ENTRIES):
            factor = DURABLE_KEEP_FACTOR if offset > lowest_cursor else 1
            old = now - time > self._keep_seconds * factor
            excess = used - expired_bytes - self._keep_bytes * factor * _LOW_WATERMARK
            surplus = self._trimming and excess > 0
            # The newest stays, or the `expired` event would expire next, and so on.
            if not (old or surplus) or expired_bytes > _STEP_BYTES or offset == self._journal.head:
                break
            last_expired, records, expired_bytes = offset, records + count, expired_bytes + size
        if not last_expired:
            return None
        readers = tuple(
            sorted(name for name, cursor in cursors.items() if cursor.offset < last_expired)
        )
        return Expiry(self._journal.first, last_expired + 1, records, expired_bytes, readers)

    def forget_idle_readers(self, now: float, connected: Collection[str]) -> list[str]:
        """Forget durable readers that were away for ``DURABLE_KEEP_FACTOR`` times the age."""
        return self._journal.forget_cursors(
            now - self._keep_seconds * DURABLE_KEEP_FACTOR, connected
        )

    def release_space(self) -> None:
        """Return free space of the file, beyond a spare, to the file system, a bounded piece."""
        used, free = self._journal.size()
        spare = max(_SPARE_BYTES, used // 8)
        if free > spare:
            self._journal.release_space(min(free - spare, _RELEASE_BYTES))
