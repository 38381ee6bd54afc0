"""The codec: bytes in, values out. Sockets, files and policy live elsewhere.

A record is ``u32 length | u32 crc32(body) | body``, little-endian, and ``body`` is the msgpack
array ``[version, seq, time, monotonic_ns, kind, step, epoch, control, data]``. The same bytes are
in the spool, on the wire and in the journal. PROTOCOL.md beside this file is the specification.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator
from time import time as now
from typing import Any
from zlib import crc32

import msgpack

from lineside.bus.errors import CorruptRecord
from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.bus.protocol.events import UNREADABLE, VERSION, Event
from lineside.bus.protocol.limits import (
    MAX_CONTAINERS,
    MAX_RECORD,
    LimitExceeded,
    check_container_count,
    check_depth,
)

HEADER = struct.Struct("<II")
_FIELDS = 9
_BODY_START = re.compile(rb"[\x99-\x9f]")  # how msgpack begins an array of 9 to 15

BytesLike = bytes | bytearray | memoryview


class Encoder:
    """Encodes records. It holds a msgpack packer, so only one thread may use it at a time.

    ``default`` converts a value that msgpack cannot encode into one that it can.
    """

    def __init__(self, default: Callable[[Any], Any] | None = None) -> None:
        self._pack = msgpack.Packer(default=default).pack

    def encode(
        self,
        seq: int,
        time: float,
        monotonic_ns: int,
        kind: str,
        step: int,
        epoch: float | None,
        control: int,
        data: Any,
    ) -> bytes:
        """One record, header included."""
        body: bytes = self._pack(
            (VERSION, seq, time, monotonic_ns, kind, step, epoch, control, data)
        )
        return frame(body)


def frame(body: BytesLike) -> bytes:
    """The record that holds ``body``."""
    return b"".join((HEADER.pack(len(body), crc32(body)), body))


U8, U32, U64, F64, NIL = 0xCC, 0xCE, 0xCF, 0xCB, 0xC0
"""How msgpack begins integers and floats of a fixed width, and how it writes null."""
START = bytes((0x90 | _FIELDS, VERSION, U32))
"""How the body of an event begins: an array of nine, the version, and a seq of 32 bits."""


def _step_body(kind: str) -> tuple[Callable[..., bytes], bytes]:
    name = msgpack.packb(kind) + bytes((U32,))
    return struct.Struct(f">3sIBdBQ{len(name)}sIBdBBB").pack, name


STEP_BODIES = {kind: _step_body(kind) for kind in STEP_KINDS}
"""``pack`` and ``name`` by kind: one struct makes the body of a step event without data.

``pack(START, seq, F64, time, U64, monotonic_ns, name, step, F64, epoch, U8, control, NIL)``.
Every field has a fixed width. An epoch of None, or a number that does not fit, is a struct.error.
"""


def decode_event(body: BytesLike) -> Event:
    """The event of one record body; fields after the ninth are ignored.

    Raises:
        ValueError: not msgpack, not an array of nine or more, fields of other types, or beyond the
            limits of a record.
    """
    body = bytes(body)
    try:
        check_container_count(body)
        fields = msgpack.unpackb(body, strict_map_key=False)
    except LimitExceeded as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # msgpack raises a dozen unrelated types
        raise ValueError(f"not msgpack: {str(error) or type(error).__name__}") from error
    if not isinstance(fields, list) or len(fields) < _FIELDS:
        raise ValueError(f"expected an array of {_FIELDS} fields, got {type(fields).__name__}")
    version, seq, time, monotonic_ns, kind, step, epoch, control, data = fields[:_FIELDS]
    well_typed = (
        isinstance(version, int)
        and isinstance(seq, int)
        and isinstance(time, (int, float))
        and isinstance(monotonic_ns, int)
        and isinstance(kind, str)
        and isinstance(step, int)
        and (epoch is None or isinstance(epoch, (int, float)))
        and isinstance(control, int)
        and (data is None or isinstance(data, dict))
    )
    if not well_typed:
        types = ", ".join(type(field).__name__ for field in fields[:_FIELDS])
        raise ValueError(f"fields of wrong types: {types}")
    try:
        check_depth(body, fields)
    except LimitExceeded as error:
        raise ValueError(str(error)) from None
    return Event(seq, time, monotonic_ns, kind, step, epoch, control, data, version)


def decode_kind(body: BytesLike) -> str:
    """The kind in one record body, without decoding its data.

    Raises:
        ValueError: it has none.
    """
    kind = _decode_head(body)[4]
    if isinstance(kind, str):
        return kind
    raise ValueError(f"a kind is a text, got {type(kind).__name__}")


def unreadable_event(body: BytesLike, seq: int, why: str) -> Event:
    """The event in place of one that cannot be decoded; ``seq`` is its own if that is unknown."""
    time, monotonic_ns = now(), 0
    with contextlib.suppress(ValueError):
        _, own_seq, own_time, own_monotonic_ns, _ = _decode_head(body)
        seq = own_seq if type(own_seq) is int else seq
        time = own_time if type(own_time) is float else time
        monotonic_ns = own_monotonic_ns if type(own_monotonic_ns) is int else monotonic_ns
    return Event(seq, time, monotonic_ns, UNREADABLE, data={"why": why, "bytes": len(body)})


def _decode_head(body: BytesLike) -> list[Any]:
    """The fields before the step, of any types."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_RECORD, max_array_len=0, max_map_len=0)
    try:
        unpacker.feed(body)
        unpacker.read_array_header()
        return [unpacker.unpack() for _ in range(5)]
    except Exception as error:  # msgpack raises a dozen unrelated types
        raise ValueError(f"not msgpack: {str(error) or type(error).__name__}") from error


def read_record(log: BytesLike, position: int = 0) -> tuple[memoryview, int] | None:
    """The body at ``position`` and where the next record begins; None if the log ends before that.

    Raises:
        CorruptRecord: an impossible length, or a checksum that does not match.
    """
    view = memoryview(log)
    if len(view) - position < HEADER.size:
        return None
    length, checksum = HEADER.unpack_from(view, position)
    if not 0 < length <= MAX_RECORD:
        raise CorruptRecord(position, f"length {length} is not 1 to {MAX_RECORD}")
    start = position + HEADER.size
    end = start + length
    if end > len(view):
        return None
    body = view[start:end]
    if crc32(body) != checksum:
        raise CorruptRecord(position, "checksum does not match")
    return body, end


def find_next_record(log: BytesLike, position: int) -> int | None:
    """Where the first whole, sound record at or after ``position`` begins; None if there is none.

    A record's body begins with the msgpack marker of an array of nine (or more, in a later
    version), so almost every wrong place is rejected on one byte before a checksum is computed.
    """
    data = bytes(log)
    found = _BODY_START.search(data, position + HEADER.size)
    while found is not None:
        start = found.start() - HEADER.size
        try:
            if read_record(data, start) is not None:
                return start
        except CorruptRecord:
            pass
        found = _BODY_START.search(data, found.end())
    return None


def record_bodies(log: BytesLike) -> Iterator[memoryview]:
    """Every record body in order, stepping over damage to the next sound record.

    What damage cost shows as a jump in the events' ``seq``.
    """
    position: int | None = 0
    while position is not None:
        try:
            found = read_record(log, position)
        except CorruptRecord:
            found = None
        if found is None:
            position = find_next_record(log, position + 1)
            continue
        body, position = found
        yield body


def count_records(blob: BytesLike) -> int:
    """How many records ``blob`` is made of.

    Raises:
        CorruptRecord: it is not whole, sound records from end to end, or one is beyond the limits.
    """
    # The broker does this for every record, so it is one flat loop over read_record's rules.
    data = blob if isinstance(blob, bytes) else bytes(blob)
    size, position, count = len(data), 0, 0
    unpack, header = HEADER.unpack_from, HEADER.size
    while position < size:
        if position + header > size:
            raise CorruptRecord(position, "cut short")
        length, checksum = unpack(data, position)
        if not 0 < length <= MAX_RECORD:
            raise CorruptRecord(position, f"length {length} is not 1 to {MAX_RECORD}")
        start = position + header
        end = start + length
        if end > size:
            raise CorruptRecord(position, "cut short")
        body = data[start:end]
        if crc32(body) != checksum:
            raise CorruptRecord(position, "checksum does not match")
        if length > MAX_CONTAINERS:
            _check_long_body(body, position)
        position = end
        count += 1
    return count


def _check_long_body(body: bytes, position: int) -> None:
    try:
        check_container_count(body)
    except (LimitExceeded, ValueError) as error:
        raise CorruptRecord(position, str(error)) from None


def skip_records(blob: BytesLike, count: int) -> memoryview:
    """``blob`` without its first ``count`` records, which must be whole."""
    view = memoryview(blob)
    position = 0
    for _ in range(count):
        position += HEADER.size + HEADER.unpack_from(view, position)[0]
    return view[position:]
