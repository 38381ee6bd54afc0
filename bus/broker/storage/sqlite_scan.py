"""Reading the SQLite journal: entries in order, those of some streams in slices."""

from __future__ import annotations

import logging
import sqlite3
import struct
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from zlib import crc32

from lineside.bus.broker.storage.journal import Entry
from lineside.bus.broker.storage.sqlite_errors import DamagedRow, translate
from lineside.bus.broker.storage.stream_index import StreamIndex
from lineside.bus.errors import JournalDamaged
from lineside.bus.protocol.patterns import Patterns

log = logging.getLogger("lineside")

_ENTRY = "SELECT offset, stream, first_seq, records, checksum, blob FROM entries"
_OFFSETS = (
    "SELECT offset FROM entries WHERE stream = ? AND offset > ? AND offset <= ?"
    " ORDER BY offset LIMIT ?"
)
_NUMBERS = struct.Struct("<qqqq?")
_READ_ENTRIES = 64  # entries of one read by stream, or by single steps around damage
_FOUND_MAX = 8192  # offsets that one search keeps, of 8 bytes each; twice as many while it runs
_SEARCH_ENTRIES = 256  # offsets of one stream between two looks at the clock


def entry_checksum(offset: int, id_: int, first_seq: int, records: int, is_gap: bool) -> int:
    """The checksum of an entry's numbers."""
    return crc32(_NUMBERS.pack(offset, id_, first_seq, records, is_gap))


class SqliteScan:
    """Reads the entries of ``patterns`` forward, at a cost that depends on them alone.

    For some streams it first searches the index of each for offsets, the oldest
    ``_FOUND_MAX`` together, and then reads those entries. A search may take several calls of
    ``read``, and no call may begin before the journal's first entry.
    """

    def __init__(
        self, db: sqlite3.Connection, path: Path, index: StreamIndex, patterns: Patterns
    ) -> None:
        self._db = db
        self._path = path
        self._index = index
        self._patterns = patterns
        self._found: array[int] = array("q")  # sorted
        self._searched = -1  # every matching entry up to here, and after the search began, is found
        self._search: Iterator[None] | None = None

    def read(self, after: int, head: int, limit: int, deadline: float) -> tuple[list[Entry], int]:
        """See ``Scan`` in ``journal.py``."""
        try:
            if self._patterns.all:
                return self._read_all(after, head, limit)
            return self._read_found(after, head, limit, deadline)
        except (sqlite3.Error, DamagedRow) as error:
            damage = self._damage_or_raise(error)
        log.warning("%s; reading continues after it", damage)
        self._search, self._searched = None, -1
        return self._read_one_by_one(after, head)

    def _read_all(self, after: int, head: int, limit: int) -> tuple[list[Entry], int]:
        entries, size = [], 0
        for row in self._db.execute(f"{_ENTRY} WHERE offset > ? ORDER BY offset", (after,)):
            entry = self._entry(row)
            entries.append(entry)
            size += len(entry.blob or b"")
            if size >= limit:
                break
        return entries, entries[-1].offset if entries else head

    def _read_found(
        self, after: int, head: int, limit: int, deadline: float
    ) -> tuple[list[Entry], int]:
        if self._search is None and after >= self._searched:
            self._search = self._find(after, head)
        if self._search is not None:
            for _ in self._search:
                if time.monotonic() >= deadline:
                    return [], after
            self._search = None
        entries, size = [], 0
        begin = bisect_right(self._found, after)
        offsets = self._found[begin : begin + _READ_ENTRIES]
        for offset in offsets:
            row = self._db.execute(f"{_ENTRY} WHERE offset = ?", (offset,)).fetchone()
            entry = self._entry(row)
            entries.append(entry)
            size += len(entry.blob or b"")
            if size >= limit:
                return entries, offset
        is_more = begin + len(offsets) < len(self._found)
        return entries, offsets[-1] if is_more else max(self._searched, after)

    def _find(self, after: int, head: int) -> Iterator[None]:
        """Search in steps; ``_found`` and ``_searched`` hold the result at the end."""
        found, end = array("q"), head
        for id_ in self._index.find(self._patterns):
            begin, count = after, _SEARCH_ENTRIES if id_ else 0
            while count == _SEARCH_ENTRIES:
                rows = self._db.execute(_OFFSETS, (id_, begin, end, _SEARCH_ENTRIES)).fetchall()
                found.extend(offset for (offset,) in rows)
                if len(found) > 2 * _FOUND_MAX:
                    found = array("q", sorted(found)[:_FOUND_MAX])
                    end = found[-1]
                begin, count = rows[-1][0] if rows else end, len(rows)
                yield
            yield
        self._found, self._searched = array("q", sorted(found)), end

    def _read_one_by_one(self, after: int, head: int) -> tuple[list[Entry], int]:
        entries = []
        last = min(after + _READ_ENTRIES, head)
        for offset in range(after + 1, last + 1):
            try:
                row = self._db.execute(f"{_ENTRY} WHERE offset = ?", (offset,)).fetchone()
                entry = self._entry(row)
            except (sqlite3.Error, DamagedRow) as error:
                self._damage_or_raise(error)
                entry = Entry(offset, None, offset, 1, None)
            if entry.stream in self._patterns:
                entries.append(entry)
        return entries, last

    def _entry(self, row: tuple[int, int, int, int, int, bytes | None]) -> Entry:
        try:
            offset, id_, first_seq, records, checksum, blob = row
            is_sound = checksum == entry_checksum(offset, id_, first_seq, records, blob is None)
            entry = Entry(offset, self._index.streams[id_], first_seq, records, blob)
        except (KeyError, TypeError, struct.error) as error:
            raise DamagedRow(f"an invalid row: {error}") from error
        if not is_sound or not isinstance(blob, (bytes, NoneType)):
            raise DamagedRow(f"the row of entry {offset} does not match its checksum")
        return entry

    def _damage_or_raise(self, error: Exception) -> Exception:
        """The damage that ``error`` reports. Other errors may pass, and must not become gaps."""
        translated = translate(error, self._path)
        if not isinstance(translated, JournalDamaged):
            raise translated from error
        return translated
