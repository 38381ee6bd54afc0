"""Finds records that the broker cannot read, and sets them aside, so that their stream goes on."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Put
from lineside.bus.protocol.wire import decode_kind, record_bodies
from lineside.emitter.spool.protected_file import open_private
from lineside.emitter.spool.segment_reader import BATCH_RECORDS, SegmentReader

log = logging.getLogger("lineside")

FOLDER = ".invalid"
"""The folder in the spool that holds a file of such records for each stream that has any."""
UNREADABLE = "unreadable"
"""Stands for the kind of a record whose kind cannot be read."""


@dataclass(frozen=True)
class InvalidRecord:
    """The record ``seq`` of a stream; ``why`` is the broker's reason, ``path`` where it is kept."""

    seq: int
    kind: str
    why: str
    path: Path


class InvalidRecords:
    """The search for the records of the stream in ``folder`` that the broker cannot read.

    It answers for a whole message. So while the search is on, one message is under way at a time,
    with at most ``most`` records: half as many after each refusal, down to the record itself.
    ``on_found`` is called with each that was set aside.
    """

    def __init__(self, stream: Stream, folder: Path) -> None:
        self.most = BATCH_RECORDS
        self.on_found: Callable[[InvalidRecord], object] = lambda _: None
        self._stream = stream
        self._folder = folder
        run, producer, attempt = stream
        self._path = folder.parents[2] / FOLDER / run / producer / f"{attempt}.seg"
        self._search_end = 0  # events before it were under way when the broker refused one of them
        self._seqs: set[int] = set()

    def __contains__(self, seq: int) -> bool:
        """Whether this record was set aside."""
        return seq in self._seqs

    @property
    def is_searching(self) -> bool:
        """Whether the next answer has to be about one message alone."""
        return self._search_end > 0

    def search(self, end: int) -> None:
        """One of the messages that end before ``end`` was refused."""
        self._search_end = end

    def on_confirmed(self, seq: int) -> None:
        """Every event before ``seq`` is confirmed."""
        if self.is_searching:
            self.most = min(2 * self.most, BATCH_RECORDS)
            if seq >= self._search_end:
                self._search_end, self.most = 0, BATCH_RECORDS

    def on_refused(self, first: int, end: int, why: str) -> None:
        """The message with the records from ``first`` to ``end`` (excluded) was refused.

        Raises:
            OSError: it was a record alone, which cannot be read or kept now.
        """
        if end - first > 1:
            self.most = (end - first) // 2
        elif first not in self._seqs:
            self._set_aside(first, why)

    def _set_aside(self, seq: int, why: str) -> None:
        found = SegmentReader(self._stream, self._folder, seq).read(final=True, records=1)
        if not isinstance(found, Put) or found.first_seq != seq:
            return  # it was removed meanwhile, and is reported as missing
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_private(self._path, os.O_WRONLY | os.O_APPEND) as fd:
            kept = os.fstat(fd).st_size
            if os.write(fd, found.blob) != len(found.blob):
                os.ftruncate(fd, kept)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(fd)
        self._seqs.add(seq)
        try:
            kind = decode_kind(next(record_bodies(found.blob)))
        except ValueError:
            kind = UNREADABLE
        log.error(
            "%s: the broker cannot read event %d, a %s (%s): it is kept in %s and reported as a "
            "gap; the events after it are sent",
            self._stream,
            seq,
            kind,
            why,
            self._path,
        )
        self.on_found(InvalidRecord(seq, kind, why, self._path))
