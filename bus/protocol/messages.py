"""The eight messages of the bus as frozen dataclasses, encoded to frames and decoded from them.

Frame 0 is the verb; the other frames are the fields, in order. Integers are 8 bytes, unsigned,
little-endian; text is UTF-8; maps and lists are msgpack. Frames after the last field are ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import msgpack

from lineside.bus.errors import BadMessage, StreamNameError
from lineside.bus.protocol.events import Stream

MAX_BLOB = 3 << 19
"""Bytes of records one PUT may carry (1.5 MiB). Producers aim for 256 KiB."""
MAX_RECORDS = 16_384
"""Records one PUT may carry."""
MAX_MESSAGE = 2 << 20
"""Bytes of all frames of a message to the broker; beyond it the connection is cut."""
MAX_WAITING = 64 << 20
"""Bytes that a network connection may have sent and the broker not taken; beyond it it is cut."""
MAX_FRAMES = 16
"""Frames of a message to the broker: later versions may add some to those of this one."""
MAX_PATTERNS = 4096
"""Patterns one SUB may carry: a shipper asks in one for the commands of all its runs."""
MAX_PATTERN = 386
"""Characters of a pattern and of a stream: three parts of 128."""
MAX_TEXT = 64 << 10
"""Bytes of any other text."""
MAX_FACTS = 64 << 10
"""Bytes of the facts of a HI."""

Frames: TypeAlias = "list[bytes]"
_U64 = struct.Struct("<Q")

OK, FULL, DENIED, HOLE, INVALID = "ok", "full", "denied", "hole", "invalid"
CURSOR, START, LIVE, OFFSET = "cursor", "start", "live", "offset"


def _decode_u64(frame: bytes) -> int:
    if len(frame) != _U64.size:
        raise BadMessage(f"an integer is 8 bytes, got {len(frame)}")
    value: int = _U64.unpack(frame)[0]
    if value >> 63:
        raise BadMessage(f"{value} is beyond 63 bits")
    return value


def _decode_text(frame: bytes) -> str:
    if len(frame) > MAX_TEXT:
        raise BadMessage(f"a text of {len(frame)} bytes: at most {MAX_TEXT} are taken")
    try:
        return frame.decode()
    except UnicodeDecodeError:
        raise BadMessage("not UTF-8") from None


def _decode_stream(frame: bytes) -> Stream:
    if len(frame) > MAX_PATTERN:
        raise BadMessage(f"a stream of {len(frame)} bytes: at most {MAX_PATTERN} are taken")
    try:
        return Stream.parse(_decode_text(frame))
    except StreamNameError as error:
        raise BadMessage(str(error)) from None


def _unpack(frame: bytes, **options: Any) -> Any:
    try:
        return msgpack.unpackb(frame, **options)
    except BadMessage:
        raise
    except Exception as error:  # noqa: BLE001 - msgpack raises a dozen unrelated types
        raise BadMessage(f"not msgpack: {str(error) or type(error).__name__}") from None


def _decode_map(frame: bytes) -> dict[str, Any]:
    if len(frame) > MAX_FACTS:
        raise BadMessage(f"a map of {len(frame)} bytes: at most {MAX_FACTS} are taken")
    value = _unpack(frame)
    if not isinstance(value, dict):
        raise BadMessage(f"expected a map, got {type(value).__name__}")
    return value


def _decode_texts(frame: bytes, **options: Any) -> tuple[str, ...]:
    has_list = False

    def take_list(items: list[Any]) -> tuple[str, ...]:
        # A second list is refused as it ends, before the frame makes millions of them.
        nonlocal has_list
        if has_list or not all(isinstance(item, str) for item in items):
            raise BadMessage("expected a list of texts")
        has_list = True
        return tuple(items)

    value = _unpack(frame, list_hook=take_list, object_hook=_no_text, **options)
    if not isinstance(value, tuple):
        raise BadMessage("expected a list of texts")
    return value


def _no_text(_: Any) -> None:
    raise BadMessage("expected a list of texts")


def _decode_patterns(frame: bytes) -> tuple[str, ...]:
    try:
        # Without the limit a list of two million elements would be made first.
        return _decode_texts(frame, max_array_len=MAX_PATTERNS)
    except BadMessage as error:
        raise BadMessage(f"{error}, at most {MAX_PATTERNS} patterns") from None


class _Field(NamedTuple):
    """The type of a field: how its frame is made and read. An optional one may be left out."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    is_optional: bool = False


_INT = _Field(_U64.pack, _decode_u64)
_TEXT = _Field(str.encode, _decode_text)
_STREAM = _Field(lambda stream: str(stream).encode(), _decode_stream)
_MAYBE_STREAM = _Field(
    lambda stream: str(stream).encode() if stream else b"",
    lambda frame: _decode_stream(frame) if frame else None,
)
_MAP = _Field(msgpack.packb, _decode_map)
_TEXTS = _Field(msgpack.packb, _decode_texts)
_PATTERNS = _Field(msgpack.packb, _decode_patterns)
_BLOB = _Field(bytes, bytes)
_FLAG = _Field(_U64.pack, lambda frame: _decode_u64(frame) == 1)


class _Message:
    """A message whose fields have the types of ``LAYOUT``."""

    __slots__: tuple[str, ...] = ()
    VERB: ClassVar[bytes]
    LAYOUT: ClassVar[tuple[_Field, ...]]

    def encode(self) -> Frames:
        frames, end = [self.VERB], 1
        for name, (encode_field, _, is_optional) in zip(self.__slots__, self.LAYOUT, strict=True):
            value = getattr(self, name)
            frames.append(encode_field(value))
            if value or not is_optional:
                end = len(frames)
        del frames[end:]
        return frames

    def validate(self) -> None:
        """Raise BadMessage if the fields make no sense together."""


@dataclass(frozen=True, slots=True)
class Hi(_Message):
    """Producer to broker on every new connection, for each stream; the answer is an Ack."""

    VERB = b"HI"
    LAYOUT = (_STREAM, _MAP)
    stream: Stream
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Put(_Message):
    """Append ``count`` records; the first has ``first_seq``, the rest follow without a hole."""

    VERB = b"PUT"
    LAYOUT = (_STREAM, _INT, _INT, _BLOB)
    stream: Stream
    first_seq: int
    count: int
    blob: bytes

    def validate(self) -> None:
        if len(self.blob) > MAX_BLOB:
            raise BadMessage(f"a PUT of {len(self.blob)} bytes: at most {MAX_BLOB} are taken")


@dataclass(frozen=True, slots=True)
class Ack(_Message):
    """Broker to client: everything of ``key`` before ``next`` is committed.

    ``key`` is a stream, or in the answer to a Sub the reader's name; ``next`` is then the offset
    after which delivery begins. ``head`` is the journal's newest offset. ``status`` is ok, full
    (the disk is full; try again later), hole (records before the ones sent are missing; send from
    ``next``), invalid (no records) or denied; ``text`` is then the reason. In the answer to a Hi or
    Sub that is ok, ``text`` is the journal's id, because offsets of one journal mean nothing in
    another. In that to a Sub ``names`` are the durable names below the reader's own, ``name/...``,
    and ``behind`` is the number of records of any stream after ``next`` (0 also if it is not
    known), which wait since ``behind_ms``.
    """

    VERB = b"ACK"
    LAYOUT = (
        _TEXT,
        _INT,
        _TEXT,
        _INT,
        _TEXT,
        _TEXTS._replace(is_optional=True),
        _INT._replace(is_optional=True),
        _INT._replace(is_optional=True),
    )
    key: str
    next: int
    status: str = OK
    head: int = 0
    text: str = ""
    names: tuple[str, ...] = ()
    behind: int = 0
    behind_ms: int = 0


@dataclass(frozen=True, slots=True)
class GapMessage(_Message):
    """Seqs ``first`` (included) to ``end`` (excluded) of a stream are lost.

    From a producer ``offset`` is 0. From the broker it is the gap's own journal offset; an empty
    ``stream`` then means that ``first`` and ``end`` are journal offsets that were skipped.
    """

    VERB = b"GAP"
    LAYOUT = (_MAYBE_STREAM, _INT, _INT, _INT)
    stream: Stream | None
    first: int
    end: int
    offset: int = 0

    def validate(self) -> None:
        if self.end <= self.first:
            raise BadMessage(f"a GAP from {self.first} to {self.end} is empty")


@dataclass(frozen=True, slots=True)
class Sub(_Message):
    """Reader to broker: deliver from ``start`` on, at most ``credit`` messages until the next Cur.

    ``start`` is cursor (after the last Cur of this durable name; the start the first time), start,
    live (only new entries, skipped forward when lagging), or offset (after ``offset``). An empty
    ``name`` keeps no cursor. ``streams`` are patterns ``run[/producer[/attempt]]`` in which ``*``
    stands for any one part; empty means all. ``reader`` identifies the client that uses ``name``,
    whatever its connection, and ``number`` counts its subscriptions.
    """

    VERB = b"SUB"
    LAYOUT = (
        _TEXT,
        _TEXT,
        _INT,
        _PATTERNS,
        _INT,
        _TEXT._replace(is_optional=True),
        _INT._replace(is_optional=True),
    )
    name: str
    start: str
    offset: int
    streams: tuple[str, ...]
    credit: int
    reader: str = ""
    number: int = 0

    def validate(self) -> None:
        if self.start not in (CURSOR, START, LIVE, OFFSET):
            raise BadMessage(f"start {self.start[:20]!r}: expected cursor, start, live or offset")
        longest = max(map(len, self.streams), default=0)
        if longest > MAX_PATTERN:
            raise BadMessage(
                f"streams: a pattern of {longest} characters: at most {MAX_PATTERN} are taken"
            )
        if self.start == CURSOR and not self.name:
            raise BadMessage("start cursor needs a reader's name")


@dataclass(frozen=True, slots=True)
class Evt(_Message):
    """Broker to reader: the journal entry at ``offset``, ``count`` records of one stream."""

    VERB = b"EVT"
    LAYOUT = (_INT, _STREAM, _INT, _INT, _BLOB)
    offset: int
    stream: Stream
    first_seq: int
    count: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class Cur(_Message):
    """Reader to broker: everything up to ``offset`` is processed; ``credit`` more may be sent.

    Sent at least once a second, with credit 0 when idle, so that a restarted broker can send Who.
    ``forget`` ends the durable name: the broker removes its cursor.
    """

    VERB = b"CUR"
    LAYOUT = (_INT, _INT, _FLAG._replace(is_optional=True))
    offset: int
    credit: int
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Who(_Message):
    """Broker to client: this connection has sent no Hi for ``stream``, or no Sub if it is empty."""

    VERB = b"WHO"
    LAYOUT = (_TEXT,)
    stream: str = ""


Message: TypeAlias = "Hi | Put | Ack | GapMessage | Sub | Evt | Cur | Who"
_MESSAGES: dict[bytes, Any] = {m.VERB: m for m in (Hi, Put, Ack, GapMessage, Sub, Evt, Cur, Who)}
_REQUIRED = {
    verb: sum(not kind.is_optional for kind in message.LAYOUT)
    for verb, message in _MESSAGES.items()
}
_DECODERS = {
    verb: tuple(kind.decode for kind in message.LAYOUT) for verb, message in _MESSAGES.items()
}


def decode(frames: Sequence[bytes]) -> Message:
    """Decode the frames of one message.

    Raises:
        BadMessage: an unknown verb, a missing frame, or an invalid one.
    """
    if not frames or frames[0] not in _MESSAGES:
        raise BadMessage(f"unknown verb {bytes(frames[0][:16]) if frames else b''!r}")
    verb, args = frames[0], frames[1:]
    required = _REQUIRED[verb]
    if len(args) < required:
        raise BadMessage(f"{required} arguments expected, got {len(args)}")
    values: list[Any] = []
    try:
        for decode_field, frame in zip(_DECODERS[verb], args, strict=False):
            values.append(decode_field(frame))
    except BadMessage as error:
        raise BadMessage(f"argument {len(values)}: {error}") from None
    message: Message = _MESSAGES[verb](*values)
    message.validate()
    return message
