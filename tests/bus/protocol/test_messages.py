"""The messages: to frames and back, and a word about everything that is wrong."""

from __future__ import annotations

import contextlib
import string

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lineside.bus.errors import BadMessage
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    CURSOR,
    LIVE,
    MAX_BLOB,
    MAX_MESSAGE,
    MAX_PATTERN,
    MAX_PATTERNS,
    OFFSET,
    START,
    Ack,
    Cur,
    Evt,
    GapMessage,
    Hi,
    Message,
    Put,
    Sub,
    Who,
    decode,
)
from tests.bus.conftest import STREAM

U64 = bytes(8)
NAME = b"run/rank0/a"

first = st.sampled_from(string.ascii_letters + string.digits + "_")
part = st.builds(
    str.__add__, first, st.text(string.ascii_letters + string.digits + "._-", max_size=127)
)
streams = st.builds(Stream, part, part, part)
u64 = st.integers(0, (1 << 63) - 1)
any_text = st.text()
gaps = st.tuples(u64, u64).filter(lambda pair: pair[0] < pair[1])
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hi, streams, st.dictionaries(st.text(), st.integers(0, 9) | st.text())),
    st.builds(Put, streams, u64, u64, st.binary()),
    st.builds(Ack, any_text, u64, any_text, u64, any_text),
    st.builds(Ack, any_text, u64, any_text, u64, any_text, st.lists(any_text).map(tuple), u64, u64),
    st.builds(
        lambda s, pair, o: GapMessage(s, pair[0], pair[1], o), st.none() | streams, gaps, u64
    ),
    st.builds(
        Sub,
        any_text,
        st.sampled_from([START, LIVE, OFFSET]),
        u64,
        st.lists(st.text(max_size=MAX_PATTERN)).map(tuple),
        u64,
    ),
    st.builds(Evt, u64, streams, u64, u64, st.binary()),
    st.builds(Cur, u64, u64),
    st.builds(Who, any_text),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode(message.encode()) == message


@given(messages, st.lists(st.binary(max_size=9), max_size=3))
def test_frames_of_a_later_version_are_ignored(message: Message, more: list[bytes]) -> None:
    assume(len(message.encode()) == 1 + len(message.LAYOUT))  # a later version leaves none out
    assert decode([*message.encode(), *more]) == message


@given(messages, st.data())
def test_a_missing_frame_is_an_error(message: Message, data: st.DataObject) -> None:
    frames = message.encode()
    required = sum(not field.is_optional for field in message.LAYOUT)
    kept = data.draw(st.integers(1, required))  # of the verb and all but one
    with pytest.raises(BadMessage):
        decode(frames[:kept])


@given(st.lists(st.binary(max_size=30), max_size=7))
def test_any_frames_at_all_are_a_message_or_bad(frames: list[bytes]) -> None:
    for verb in (b"HI", b"PUT", b"ACK", b"GAP", b"SUB", b"EVT", b"CUR", b"WHO"):
        with contextlib.suppress(BadMessage):
            assert verb == decode([verb, *frames]).VERB


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([], "unknown verb b''"),
        ([b"NO"], "unknown verb b'NO'"),
        ([b"x" * 99], "unknown verb b'xxxxxxxxxxxxxxxx'"),
        ([b"WHO"], "1 arguments expected, got 0"),
        ([b"CUR", U64], "2 arguments expected, got 1"),
        ([b"CUR", U64, b"short"], "argument 1: an integer is 8 bytes, got 5"),
        ([b"CUR", b"\xff" * 8, U64], "beyond 63 bits"),
        ([b"WHO", b"\xff"], "argument 0: not UTF-8"),
        ([b"HI", b"run", msgpack.packb({})], "is not a stream"),
        ([b"HI", b"\xff/a/b", msgpack.packb({})], "not UTF-8"),
        ([b"HI", NAME, msgpack.packb([])], "expected a map, got list"),
        ([b"HI", NAME, b"\xc1"], "not msgpack"),
        ([b"HI", NAME, b""], "not msgpack"),
        ([b"HI", NAME, b"\x81\x80\x01"], "not msgpack"),
        ([b"HI", NAME], "2 arguments expected"),
        ([b"PUT", NAME, U64, U64, bytes(MAX_BLOB + 1)], "at most 1572864 are taken"),
        ([b"GAP", NAME, U64, U64, U64], "from 0 to 0 is empty"),
        ([b"SUB", b"n", b"soon", U64, b"\x90", U64], "start 'soon': expected cursor"),
        ([b"SUB", b"n", b"start", U64, b"\x80", U64], "argument 3: expected a list of texts"),
        ([b"SUB", b"n", b"start", U64, b"\x91\x01", U64], "argument 3: expected a list of texts"),
        ([b"SUB", b"", b"cursor", U64, b"\x90", U64], "needs a reader's name"),
    ],
)
def test_the_error_names_the_invalid_frame(frames: list[bytes], why: str) -> None:
    with pytest.raises(BadMessage) as error_info:
        decode(frames)
    assert why in str(error_info.value)


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        (("run",) * (MAX_PATTERNS + 1), "at most 4096 patterns"),
        (("r" * (MAX_PATTERN + 1),), "a pattern of 387 characters: at most 386 are taken"),
    ],
)
def test_a_subscription_is_bounded(patterns: tuple[str, ...], why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        decode(Sub("", START, 0, patterns, 64).encode())


def test_a_subscription_takes_the_most_and_longest_patterns_in_one_message() -> None:
    sub = Sub("", START, 0, ("r" * MAX_PATTERN,) * MAX_PATTERNS, 64)
    frames = sub.encode()
    assert decode(frames) == sub
    assert sum(map(len, frames)) <= MAX_MESSAGE


def test_a_durable_reader_may_start_at_its_cursor() -> None:
    sub = Sub("name", CURSOR, 0, (), 64)
    assert decode(sub.encode()) == sub


def test_a_gap_of_a_stream_or_of_the_journal() -> None:
    assert decode(GapMessage(STREAM, 1, 5, 9).encode()) == GapMessage(STREAM, 1, 5, 9)
    assert decode(GapMessage(None, 1, 5).encode()) == GapMessage(None, 1, 5, 0)
