"""Puts the events that wait in a spool into the journal of a backup."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lineside.bus.broker.storage.append_buffer import AppendBuffer
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.errors import BadMessage
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import OK, Put
from lineside.emitter.spool import directory
from lineside.emitter.spool.segment_reader import SegmentReader

_COMMIT_BYTES = 4 << 20


def append_spool_events(journal: SqliteJournal, spool: Path) -> int:
    """Append what every stream of ``spool`` has after the events of ``journal``; their number.

    The shippers of the spool send the same events to the broker: by their numbers each is kept
    once. Streams that cannot be read are left out.
    """
    buffer, count = AppendBuffer(journal), 0
    for stream, folder in directory.streams(spool):
        before = buffer.next_seq(stream)
        with contextlib.suppress(OSError):
            _append(buffer, stream, folder)
        count += buffer.next_seq(stream) - before
    buffer.commit({})
    return count


def _append(buffer: AppendBuffer, stream: Stream, folder: Path) -> None:
    next_seq = buffer.next_seq(stream)
    # Read before the segments. What the broker has confirmed since the journal was copied may be
    # removed already: that is no gap, and nothing that comes after it can be appended.
    acked = directory.acked_seq(folder)
    reader = SegmentReader(stream, folder, next_seq)
    while (message := reader.read(final=False)) is not None:
        if isinstance(message, Put):
            try:
                is_added = buffer.put(message) == OK
            except BadMessage:
                return
        else:
            is_added = acked <= next_seq and buffer.gap(stream, message) == OK
        if not is_added:
            return
        if buffer.size >= _COMMIT_BYTES:
            buffer.commit({})
