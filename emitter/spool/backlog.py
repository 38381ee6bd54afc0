"""Which streams of a spool have ended, and how many of their events are not confirmed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool import directory, liveness_lock
from lineside.emitter.spool.segment_reader import SegmentReader, segments
from lineside.emitter.spool.status_reader import StatusFields, read_page
from lineside.emitter.spool.stream_folder import LOCK_NAME

MAX_PLAUSIBLE_GAP = 10_000_000
"""A page that is further ahead of the records, or of the confirmed seq, is damaged."""
_LAST_BYTES = 16 << 20
_END_KINDS = ("train_end", "run_end")
_END_MARKS = tuple(kind.encode() for kind in _END_KINDS)


class StreamBacklog(NamedTuple):
    """Events before ``acked`` are confirmed, ``left`` more are not."""

    acked: int
    left: int


def unconfirmed(spool: Path, run: str = "") -> dict[Stream, StreamBacklog]:
    """The backlog of every stream in ``spool``, or of the streams of ``run``.

    Streams that cannot be read, or were removed meanwhile, are left out.

    Not for a process that writes a stream there itself: asking for a lock would release its own.
    """
    found = {}
    for stream, folder in directory.streams(spool, run):
        with contextlib.suppress(OSError):
            found[stream] = _measure(stream, folder)
    return found


def end_seq(stream: Stream, folder: Path, start: int) -> int:
    """The seq after the last record of ``stream``, read from seq ``start`` on.

    Raises:
        OSError: a segment cannot be read.
    """
    reader = SegmentReader(stream, folder, start)
    while reader.read(final=True) is not None:
        pass
    return reader.seq


def has_ended(folder: Path, fields: StatusFields | None) -> bool:
    """Whether the stream in ``folder`` reports its own end.

    Its page does, in ``fields``. A process can be killed after its last record and before it stores
    that into the page, so the last records count as well.

    Raises:
        OSError: the records cannot be read.
    """
    if fields is not None and fields.has_ended:
        return True
    for segment in reversed(segments(folder)[-2:]):
        data = _last_bytes(segment.path)
        if any(mark in data for mark in _END_MARKS):
            for body in wire.record_bodies(data):
                with contextlib.suppress(ValueError):
                    if wire.decode_event(body).kind in _END_KINDS:
                        return True
    return False


def _measure(stream: Stream, folder: Path) -> StreamBacklog:
    acked = directory.acked_seq(folder)
    fields = read_page(folder)
    if fields is not None and 0 < fields.next_seq - acked <= MAX_PLAUSIBLE_GAP:
        return StreamBacklog(acked, fields.next_seq - acked)
    if fields is not None and fields.next_seq == acked and _is_held(folder):
        return StreamBacklog(acked, 0)
    # The page is missing or damaged, or its process was killed before it counted a last record.
    return StreamBacklog(acked, end_seq(stream, folder, acked) - acked)


def _is_held(folder: Path) -> bool:
    try:
        return liveness_lock.holder_pid(folder / LOCK_NAME) is not None
    except FileNotFoundError:  # a live producer makes it again
        return True


def _last_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _LAST_BYTES, 0))
        return file.read()
