"""Limits on a record: refused before millions of objects are made, and never a crash."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.bus.errors import BadMessage, CorruptRecord
from lineside.bus.protocol.events import UNREADABLE
from lineside.bus.protocol.limits import MAX_CONTAINERS, MAX_DEPTH, MAX_RECORD
from lineside.bus.protocol.messages import MAX_MESSAGE, decode
from lineside.bus.protocol.patterns import Patterns
from lineside.bus.protocol.wire import (
    Encoder,
    count_records,
    decode_event,
    decode_kind,
    frame,
    record_bodies,
    unreadable_event,
)
from tests.bus.protocol.codec_fuzzing import read_anything, read_frames

HEAD = b"\x99" + b"".join(map(msgpack.packb, (1, 5, 1.5, 7, "log", 3, 0.5, 0)))


def body(data: bytes) -> bytes:
    return HEAD + data


def nested(depth: int) -> bytes:
    return body(b"\x81\xa1x" * depth + b"\xc0")


def empty_maps(count: int) -> bytes:
    return body(b"\x81\xa1x\xdd" + count.to_bytes(4, "big") + b"\x80" * count)


def test_data_nested_as_deep_as_allowed_is_read_and_deeper_is_not() -> None:
    assert decode_event(nested(MAX_DEPTH)).seq == 5
    for depth in (MAX_DEPTH + 1, 600, 5000):
        with pytest.raises(ValueError, match=r"nested more than 100 deep|StackError"):
            decode_event(nested(depth))


def test_a_record_with_too_many_maps_is_refused_by_the_broker_and_not_read() -> None:
    few, many = empty_maps(MAX_CONTAINERS - 3), empty_maps(MAX_RECORD - 100)
    assert len((decode_event(few).data or {})["x"]) == MAX_CONTAINERS - 3
    assert count_records(frame(few)) == 1
    with pytest.raises(CorruptRecord, match="more than 32768 maps and lists"):
        count_records(frame(few) + frame(many))
    with pytest.raises(ValueError, match="more than 32768 maps and lists"):
        decode_event(many)


def test_an_evaluation_of_50_000_values_is_taken() -> None:
    metrics = {f"eval_{number}": number / 7 for number in range(50_000)}
    record = Encoder().encode(0, 1.5, 7, "evaluate", 0, None, 0, {"metrics": metrics})
    assert count_records(record) == 1
    [read] = record_bodies(record)
    assert (decode_event(read).data or {})["metrics"] == metrics


def test_an_event_that_cannot_be_read_keeps_its_place_and_the_reason() -> None:
    event = unreadable_event(nested(600), 99, "too deep")
    assert (event.seq, event.time, event.monotonic_ns, event.kind) == (5, 1.5, 7, UNREADABLE)
    assert event.data == {"why": "too deep", "bytes": len(nested(600))}
    assert unreadable_event(b"\xc1", 99, "x").seq == 99


def test_the_kind_is_read_without_the_data() -> None:
    assert decode_kind(nested(5000)) == "log"
    for bad in (b"", b"\xc1", b"\x99", b"\x90", b"\x99\x01\x01\x01\x01\x01"):
        with pytest.raises(ValueError, match=r"msgpack|text"):
            decode_kind(bad)


@pytest.mark.parametrize(
    "frames",
    [
        [b"HI", b"run/rank0/a", b"\xdd\x00\x1f\x00\x00" + b"\x80" * 0x1F0000],
        [b"HI", b"r" * MAX_MESSAGE, b"\x80"],
        [b"SUB", b"", b"start", bytes(8), b"\xdd\x00\x1f\x00\x00" + b"\x90" * 0x1F0000, bytes(8)],
        [b"SUB", b"", b"start", bytes(8), b"\xdd\x00\x1f\x00\x00" + b"\x80" * 0x1F0000, bytes(8)],
        [b"SUB", b"n" * MAX_MESSAGE, b"start", bytes(8), b"\x90", bytes(8)],
        [b"SUB", b"", b"s" * 60_000, bytes(8), b"\x90", bytes(8)],
    ],
)
def test_a_large_invalid_message_is_refused_in_few_words(frames: list[bytes]) -> None:
    with pytest.raises(BadMessage) as error_info:
        decode(frames)
    assert len(str(error_info.value)) < 200


@pytest.mark.parametrize(
    "pattern", ["", "a/", "a//b", "a/b/c/d", "run*", "*/rank*", "a/b/*x", "-a", "a b", "r" * 129]
)
def test_a_pattern_that_could_match_no_stream_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"expected run\[/producer\[/attempt\]\]"):
        Patterns([pattern])


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_codec(data: bytes) -> None:
    read_anything(data)
    read_anything(frame(data or b"\0"))
    read_anything(frame(body(data)))


@given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from([b"HI", b"PUT", b"SUB"]))
def test_no_frames_crash_the_decoder(frames: list[bytes], verb: bytes) -> None:
    read_frames([verb, *frames])
