"""The bus's eight messages as frozen dataclasses, each to and from its frames.

Frame 0 is the verb. Integers are 8 bytes, unsigned, little-endian; text is UTF-8; a map is msgpack.
Frames after those a verb names are ignored, so a later version may add some.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import msgpack

from lineside.bus.errors import BadMessage, StreamNameError
from lineside.bus.protocol.events import Stream

PROTOCOL_VERSION = 1
MAX_BLOB = 4 << 20
"""Bytes of records one PUT may carry (4 MiB). Producers aim for 256 KiB."""
MAX_MESSAGE = 16 << 20
"""Bytes of a whole frame beyond which a socket is cut off by libzmq."""
MAX_PATTERNS = 65536
"""Patterns one SUB may carry, within a frame: a shipper asks in one for all its runs' commands."""
MAX_PATTERN = 386
"""Characters of a pattern: three parts of 128."""

Frames: TypeAlias = "list[bytes]"
_U64 = struct.Struct("<Q")

OK, FULL, DENIED, HOLE = "ok", "full", "denied", "hole"
CURSOR, START, LIVE, OFFSET = "cursor", "start", "live", "offset"


@dataclass(frozen=True, slots=True)
class Hi:
    """Producer to broker on every new connection, for each stream: answered by an Ack."""

    VERB: ClassVar[bytes] = b"HI"
    stream: Stream
    facts: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> Frames:
        return [self.VERB, _text(str(self.stream)), msgpack.packb(self.facts)]

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Hi:
        return cls(_stream(args, 0), _map(args, 1))


@dataclass(frozen=True, slots=True)
class Put:
    """Append ``count`` records; the first has ``first_seq``, the rest follow without a hole."""

    VERB: ClassVar[bytes] = b"PUT"
    stream: Stream
    first_seq: int
    count: int
    blob: bytes

    def encode(self) -> Frames:
        return [
            self.VERB,
            _text(str(self.stream)),
            _U64.pack(self.first_seq),
            _U64.pack(self.count),
            self.blob,
        ]

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Put:
        blob = _frame(args, 3)
        if len(blob) > MAX_BLOB:
            raise BadMessage(f"a PUT of {len(blob)} bytes: at most {MAX_BLOB} are taken")
        return cls(_stream(args, 0), _int(args, 1), _int(args, 2), blob)


@dataclass(frozen=True, slots=True)
class Ack:
    """Broker to a peer: everything of ``key`` before ``next`` is committed.

    ``key`` is a stream, or for the answer to a Sub the reader's name, and ``next`` then the offset
    after which delivery begins. ``head`` is the journal's newest offset. ``status`` is ok, full
    (disk; try again later), hole (records before the ones sent are missing; send from ``next``) or
    denied, and ``text`` then says why. In the answer to a Sub that is ok, ``text`` is the journal's
    id: offsets of one journal mean nothing in another, and ``names`` are the durable names below
    the reader's own, ``name/...``.
    """

    VERB: ClassVar[bytes] = b"ACK"
    key: str
    next: int
    status: str = OK
    head: int = 0
    text: str = ""
    names: tuple[str, ...] = ()

    def encode(self) -> Frames:
        frames = [
            self.VERB,
            _text(self.key),
            _U64.pack(self.next),
            _text(self.status),
            _U64.pack(self.head),
            _text(self.text),
        ]
        return [*frames, msgpack.packb(self.names)] if self.names else frames

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Ack:
        names = _unpack(args, 5) if len(args) > 5 else []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadMessage("names: expected a list of texts")
        return cls(
            _str(args, 0), _int(args, 1), _str(args, 2), _int(args, 3), _str(args, 4), tuple(names)
        )


@dataclass(frozen=True, slots=True)
class GapMessage:
    """Seqs ``first`` (included) to ``end`` (excluded) of a stream cannot be had.

    From a producer ``offset`` is 0. From the broker it is the gap's own journal offset; an empty
    ``stream`` then means that ``first`` and ``end`` are journal offsets that were skipped.
    """

    VERB: ClassVar[bytes] = b"GAP"
    stream: Stream | None
    first: int
    end: int
    offset: int = 0

    def encode(self) -> Frames:
        return [
            self.VERB,
            _text(str(self.stream) if self.stream else ""),
            _U64.pack(self.first),
            _U64.pack(self.end),
            _U64.pack(self.offset),
        ]

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> GapMessage:
        stream = _stream(args, 0) if _frame(args, 0) else None
        first, end = _int(args, 1), _int(args, 2)
        if end <= first:
            raise BadMessage(f"a GAP from {first} to {end} is empty")
        return cls(stream, first, end, _int(args, 3))


@dataclass(frozen=True, slots=True)
class Sub:
    """Reader to broker: deliver from ``start`` on, at most ``credit`` messages until the next Cur.

    ``start`` is cursor (where this durable name last said Cur; the start the first time), start,
    live (only what is yet to come, skipped forward when lagging), or offset (after ``offset``).
    An empty ``name`` keeps no cursor. ``streams`` are patterns ``run[/producer[/attempt]]`` in
    which ``*`` stands for any one part; empty means all.
    """

    VERB: ClassVar[bytes] = b"SUB"
    name: str
    start: str
    offset: int
    streams: tuple[str, ...]
    credit: int

    def encode(self) -> Frames:
        return [
            self.VERB,
            _text(self.name),
            _text(self.start),
            _U64.pack(self.offset),
            msgpack.packb(self.streams),
            _U64.pack(self.credit),
        ]

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Sub:
        start = _str(args, 1)
        if start not in (CURSOR, START, LIVE, OFFSET):
            raise BadMessage(f"start {start!r}: expected cursor, start, live or offset")
        streams = _unpack(args, 3)
        if not isinstance(streams, list) or not all(isinstance(s, str) for s in streams):
            raise BadMessage("streams: expected a list of patterns")
        if len(streams) > MAX_PATTERNS or any(len(text) > MAX_PATTERN for text in streams):
            raise BadMessage(
                f"streams: {len(streams)} patterns, the longest of {max(map(len, streams))} "
                f"characters: at most {MAX_PATTERNS} of {MAX_PATTERN} are taken"
            )
        name = _str(args, 0)
        if start == CURSOR and not name:
            raise BadMessage("start cursor needs a reader's name")
        return cls(name, start, _int(args, 2), tuple(streams), _int(args, 4))


@dataclass(frozen=True, slots=True)
class Evt:
    """Broker to reader: the journal entry at ``offset``, ``count`` records of one stream."""

    VERB: ClassVar[bytes] = b"EVT"
    offset: int
    stream: Stream
    first_seq: int
    count: int
    blob: bytes

    def encode(self) -> Frames:
        return [
            self.VERB,
            _U64.pack(self.offset),
            _text(str(self.stream)),
            _U64.pack(self.first_seq),
            _U64.pack(self.count),
            self.blob,
        ]

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Evt:
        return cls(_int(args, 0), _stream(args, 1), _int(args, 2), _int(args, 3), _frame(args, 4))


@dataclass(frozen=True, slots=True)
class Cur:
    """Reader to broker: everything up to ``offset`` is processed; ``credit`` more may be sent.

    Sent at least once a second, with credit 0 when idle, so that a restarted broker can say Who.
    ``forget`` ends the durable name: the broker removes its cursor.
    """

    VERB: ClassVar[bytes] = b"CUR"
    offset: int
    credit: int
    forget: bool = False

    def encode(self) -> Frames:
        frames = [self.VERB, _U64.pack(self.offset), _U64.pack(self.credit)]
        return [*frames, _U64.pack(1)] if self.forget else frames

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Cur:
        return cls(_int(args, 0), _int(args, 1), len(args) > 2 and _int(args, 2) == 1)


@dataclass(frozen=True, slots=True)
class Who:
    """Broker to peer: this connection has not said Hi for ``stream``, or Sub when it is empty."""

    VERB: ClassVar[bytes] = b"WHO"
    stream: str = ""

    def encode(self) -> Frames:
        return [self.VERB, _text(self.stream)]

    @classmethod
    def decode(cls, args: Sequence[bytes]) -> Who:
        return cls(_str(args, 0))


Message: TypeAlias = "Hi | Put | Ack | GapMessage | Sub | Evt | Cur | Who"
_MESSAGES: dict[bytes, Any] = {m.VERB: m for m in (Hi, Put, Ack, GapMessage, Sub, Evt, Cur, Who)}


def decode(frames: Sequence[bytes]) -> Message:
    """The message of these frames.

    Raises:
        BadMessage: an unknown verb, a missing frame, or a frame that is not what the verb says.
    """
    if not frames or frames[0] not in _MESSAGES:
        raise BadMessage(f"unknown verb {bytes(frames[0][:16]) if frames else b''!r}")
    message: Message = _MESSAGES[frames[0]].decode(frames[1:])
    return message


def _text(value: str) -> bytes:
    return value.encode()


def _frame(args: Sequence[bytes], index: int) -> bytes:
    try:
        return args[index]
    except IndexError:
        raise BadMessage(f"{index + 1} arguments expected, got {len(args)}") from None


def _int(args: Sequence[bytes], index: int) -> int:
    frame = _frame(args, index)
    if len(frame) != _U64.size:
        raise BadMessage(f"argument {index}: an integer is 8 bytes, got {len(frame)}")
    value: int = _U64.unpack(frame)[0]
    if value >> 63:
        raise BadMessage(f"argument {index}: {value} is beyond 63 bits")
    return value


def _str(args: Sequence[bytes], index: int) -> str:
    try:
        return _frame(args, index).decode()
    except UnicodeDecodeError:
        raise BadMessage(f"argument {index}: not UTF-8") from None


def _stream(args: Sequence[bytes], index: int) -> Stream:
    try:
        return Stream.parse(_str(args, index))
    except StreamNameError as error:
        raise BadMessage(str(error)) from None


def _unpack(args: Sequence[bytes], index: int) -> Any:
    try:
        return msgpack.unpackb(_frame(args, index))
    except BadMessage:
        raise
    except Exception as error:  # noqa: BLE001 - msgpack raises a dozen unrelated types
        raise BadMessage(f"argument {index}: not msgpack: {error}") from None


def _map(args: Sequence[bytes], index: int) -> dict[str, Any]:
    value = _unpack(args, index)
    if not isinstance(value, dict):
        raise BadMessage(f"argument {index}: expected a map, got {type(value).__name__}")
    return value
