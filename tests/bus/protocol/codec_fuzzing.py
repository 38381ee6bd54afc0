"""Gives the codec any bytes: whatever they are, it raises its own errors only."""

from __future__ import annotations

import contextlib

from lineside.bus.errors import BadMessage, CorruptRecord, StreamNameError
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import decode
from lineside.bus.protocol.patterns import Patterns
from lineside.bus.protocol.wire import (
    count_records,
    decode_event,
    decode_kind,
    find_next_record,
    frame,
    read_record,
    record_bodies,
    skip_records,
    unreadable_event,
)

VERBS = (b"HI", b"PUT", b"ACK", b"GAP", b"SUB", b"EVT", b"CUR", b"WHO")


def read_anything(data: bytes) -> None:
    """Read ``data`` as a log, as a record, as a body and as names; only their errors may come."""
    for record in record_bodies(data):
        read_body(bytes(record))
    read_body(data)
    find_next_record(data, 0)
    for read in (count_records, read_record):
        try:
            read(data)
        except CorruptRecord:
            pass
        else:
            skip_records(data, 0)
    with contextlib.suppress(ValueError):
        Patterns([data.decode(errors="replace")])
    with contextlib.suppress(StreamNameError):
        Stream.parse(data.decode(errors="replace"))


def read_body(data: bytes) -> None:
    for read in (decode_event, decode_kind):
        try:
            read(data)
        except ValueError as error:
            unreadable_event(data, 0, str(error))


def read_frames(frames: list[bytes]) -> None:
    with contextlib.suppress(BadMessage):
        decode(frames)


def fuzz_one(data: bytes) -> None:
    """Read ``data`` in every way; its first byte chooses the verb and the sizes of the frames."""
    read_anything(data)
    read_anything(frame(data or b"\0"))
    size = 1 + (data[0] >> 3 if data else 0)
    arguments = [data[start : start + size] for start in range(1, len(data), size)]
    read_frames([VERBS[data[0] & 7] if data else b"", *arguments])
