"""Reads the segments of one stream from a seq on, as messages for the bus."""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_right
from collections import deque
from pathlib import Path
from typing import NamedTuple

from lineside.bus.errors import CorruptRecord
from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.limits import MAX_RECORD
from lineside.bus.protocol.messages import GapMessage, Put
from lineside.bus.wording import plural

log = logging.getLogger("lineside")

BATCH_RECORDS = 256
BATCH_BYTES = 256 << 10
_RESYNC_BYTES = 16 << 20  # twice a segment: searched for a sound record after damage
_SEGMENT_NAME = re.compile(r"(\d{16})\.seg")
_ARRAY_OF_9 = 0x99
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # msgpack's markers and their widths


class Segment(NamedTuple):
    """One file of records. ``first`` is the seq of its first record, by the file's name."""

    first: int
    path: Path


def segments(folder: Path) -> list[Segment]:
    """The segments in ``folder``, oldest first; none if the folder is missing.

    Raises:
        OSError: the folder exists and cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = ((_SEGMENT_NAME.fullmatch(path.name), path) for path in paths)
    return sorted(Segment(int(match[1]), path) for match, path in matches if match)


def peek_seq(body: memoryview) -> int:
    """The seq in a record's body, without decoding the rest.

    Raises:
        ValueError: the body is not an event.
    """
    if len(body) > 11 and body[0] == _ARRAY_OF_9 and body[1] < 0x80:
        marker = body[2]
        if marker < 0x80:
            return marker
        width = _UNSIGNED.get(marker)
        if width:
            return int.from_bytes(body[3 : 3 + width], "big")
    return wire.decode_event(body).seq


class SegmentReader:
    """Reads ``stream`` in ``folder`` from ``seq`` on, while it is written or afterwards.

    Keeps no descriptor between calls, so thousands of leftover streams cost none, and a deleted
    folder reads like an empty one. ``seq`` is the next to be read.
    """

    def __init__(self, stream: Stream, folder: Path, seq: int = 0) -> None:
        self.stream = stream
        self.folder = folder
        self.seq = seq
        self._segment: Segment | None = None
        self._offset = 0
        self._batch_starts: deque[_BatchStart] = deque()

    def seek(self, seq: int) -> None:
        """Read ``seq`` next, or the first one after it that exists."""
        if seq == self.seq:
            return
        while self._batch_starts and self._batch_starts[-1].seq > seq:
            self._batch_starts.pop()
        self._segment = None
        if self._batch_starts:
            _, self._segment, self._offset = self._batch_starts[-1]
        self.seq = seq

    def discard_before(self, seq: int) -> None:
        """Forget positions before ``seq``, which are not sought again."""
        while len(self._batch_starts) > 1 and self._batch_starts[1].seq <= seq:
            self._batch_starts.popleft()

    def read(self, *, final: bool, records: int = BATCH_RECORDS) -> Put | GapMessage | None:
        """The next batch of ``records`` at most, or the hole before it; None if no more is there.

        With ``final`` the writer has ended: a partial record at the end is not an event. Otherwise
        it may still be written.

        Raises:
            OSError: a segment exists and cannot be read.
        """
        while True:
            segment = self._segment or self._select_segment()
            if segment is None:
                return None
            data = _load(segment.path, self._offset, BATCH_BYTES)
            found = _scan(data, self.seq, records)
            if not found.end and len(data) == BATCH_BYTES:
                data = _load(segment.path, self._offset, _RESYNC_BYTES)
                found = _scan(data, self.seq, records)
            if found.records:
                self._batch_starts.append(
                    _BatchStart(self.seq, segment, self._offset + found.start)
                )
            self._offset += found.end
            if found.records:
                blob = data[found.start : found.end]
                self.seq += found.records
                return Put(self.stream, self.seq - found.records, found.records, blob)
            if found.gap_end:
                gap = GapMessage(self.stream, self.seq, found.gap_end)
                self.seq = found.gap_end
                return gap
            if not found.end and not self._skip_damage(segment, data, final=final):
                return None

    def _select_segment(self) -> Segment | None:
        existing = segments(self.folder)
        if existing:
            index = bisect_right([segment.first for segment in existing], self.seq) - 1
            self._segment, self._offset = existing[max(index, 0)], 0
        return self._segment

    def _skip_damage(self, segment: Segment, rest: bytes, *, final: bool) -> bool:
        """Skip ``rest``, which does not begin with a record; False if nothing comes after it."""
        good = wire.find_next_record(rest, 1) if rest else None
        if good is None and len(rest) == _RESYNC_BYTES:
            good = _RESYNC_BYTES - wire.HEADER.size - MAX_RECORD
        if good is not None:
            self._log_damage(segment, good)
            self._offset += good
            return True
        following = [other for other in segments(self.folder) if other.first > segment.first]
        if not following:
            if final and rest:
                log.info(
                    "%s: its end, %s, is no whole record", self.stream, plural(len(rest), "byte")
                )
            return False
        # The writer has finished this segment, but perhaps after ``rest`` was read.
        if _size(segment.path) <= self._offset + len(rest):
            if rest:
                self._log_damage(segment, len(rest))
            self._segment, self._offset = following[0], 0
        return True

    def _log_damage(self, segment: Segment, size: int) -> None:
        log.error(
            "%s: skipped %s in %s at byte %d",
            self.stream,
            plural(size, "damaged byte"),
            segment.path,
            self._offset,
        )


class _BatchStart(NamedTuple):
    seq: int
    segment: Segment
    offset: int


class _ScanResult(NamedTuple):
    """Records from byte ``start`` to ``end``, or none and ``gap_end``, the seq found instead."""

    records: int
    start: int
    end: int
    gap_end: int


def _scan(data: bytes, seq: int, most: int) -> _ScanResult:
    """Find ``most`` consecutive records from ``seq`` on; earlier ones are skipped."""
    count, start, end = 0, 0, 0
    while count < most and end - start < BATCH_BYTES:
        try:
            record = wire.read_record(data, end)
            if record is None:
                break
            found = peek_seq(record[0])
        except (CorruptRecord, ValueError):
            break
        if found != seq + count:
            if count or found > seq:
                return _ScanResult(count, start, end, 0 if count else found)
            start = end = record[1]
            continue
        count += 1
        end = record[1]
    return _ScanResult(count, start, end, 0)


def _load(path: Path, offset: int, size: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
