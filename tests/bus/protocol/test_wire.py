"""The codec: what goes in comes out, and damage costs only what it touched."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.bus.errors import CorruptRecord
from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.limits import MAX_RECORD
from lineside.bus.protocol.wire import (
    F64,
    HEADER,
    NIL,
    START,
    STEP_BODIES,
    U8,
    U64,
    Encoder,
    count_records,
    decode_event,
    find_next_record,
    read_record,
    record_bodies,
    skip_records,
)
from tests.bus.conftest import record, records

integers = st.integers(-(1 << 63), (1 << 64) - 1)
plain = st.none() | st.booleans() | integers | st.floats() | st.text() | st.binary()
values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
events = st.builds(
    Event,
    seq=st.integers(0, (1 << 63) - 1),
    time=st.floats(allow_nan=False),
    monotonic_ns=integers,
    kind=st.text(),
    step=integers,
    epoch=st.none() | st.floats(allow_nan=False),
    control=st.integers(0, 31),
    data=st.none() | st.dictionaries(st.text(), values),
)


step_events = st.builds(
    Event,
    seq=st.integers(0, (1 << 32) - 1),
    time=st.floats(),
    monotonic_ns=st.integers(0, (1 << 64) - 1),
    kind=st.sampled_from(sorted(STEP_KINDS)),
    step=st.integers(0, (1 << 32) - 1),
    epoch=st.floats(),
    control=st.integers(0, 255),
)


def step_body(event: Event) -> bytes:
    pack, name = STEP_BODIES[event.kind]
    return pack(
        *(START, event.seq, F64, event.time, U64, event.monotonic_ns),
        *(name, event.step, F64, event.epoch, U8, event.control, NIL),
    )


def encode(event: Event) -> bytes:
    return Encoder().encode(
        event.seq,
        event.time,
        event.monotonic_ns,
        event.kind,
        event.step,
        event.epoch,
        event.control,
        event.data,
    )


def same(left: Any, right: Any) -> bool:
    """Equal, a NaN to a NaN too."""
    return bool(repr(left) == repr(right))


@given(events)
def test_an_event_comes_out_as_it_went_in(event: Event) -> None:
    blob = encode(event)
    found = read_record(blob)
    assert found is not None
    body, end = found
    assert end == len(blob)
    assert same(decode_event(body), event)
    assert count_records(blob) == 1


@given(step_events)
def test_a_struct_encodes_a_step_event_as_the_packer_does(event: Event) -> None:
    body = step_body(event)
    assert same(decode_event(body), event)
    assert same(decode_event(body), decode_event(encode(event)[HEADER.size :]))


@pytest.mark.parametrize(
    "change",
    [{"seq": 1 << 32}, {"step": -1}, {"step": 1 << 32}, {"epoch": None}, {"control": 256}],
)
def test_a_struct_refuses_a_step_event_of_other_widths(change: dict[str, Any]) -> None:
    event = Event(0, 0.0, 0, "step_end", 0, 0.0)
    with pytest.raises(struct.error):
        step_body(dataclasses.replace(event, **change))


@given(st.lists(events, max_size=8), st.binary(max_size=3))
def test_a_log_cut_anywhere_holds_the_records_before_the_cut(
    given_events: list[Event], rest: bytes
) -> None:
    blobs = [encode(event) for event in given_events]
    log = b"".join(blobs) + rest
    assert same([decode_event(body) for body in record_bodies(log)], given_events)


@given(st.data())
def test_one_damaged_byte_costs_one_record_and_never_raises(data: st.DataObject) -> None:
    log = bytearray(records(0, 12))
    at = data.draw(st.integers(0, len(log) - 1))
    log[at] ^= data.draw(st.integers(1, 255))
    size = len(log) // 12
    seqs = [decode_event(body).seq for body in record_bodies(log)]
    assert seqs == [seq for seq in range(12) if seq != at // size]
    with pytest.raises(CorruptRecord) as error_info:
        count_records(log)
    assert error_info.value.position == at // size * size


@given(st.binary(max_size=300))
def test_any_bytes_at_all_can_be_read_over(garbage: bytes) -> None:
    log = record(1) + garbage + record(2)
    seqs = [decode_event(body).seq for body in record_bodies(log)]
    assert seqs[0] == 1
    assert seqs[-1] == 2


@given(st.binary(max_size=60))
def test_any_bytes_at_all_are_an_event_or_a_value_error(body: bytes) -> None:
    try:
        event = decode_event(body)
    except ValueError:
        return
    assert isinstance(event, Event)


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (record(0) + b"\0", "cut short"),
        (record(0)[:-1], "cut short"),
        (HEADER.pack(0, 0), "length 0 is not 1 to"),
        (HEADER.pack(MAX_RECORD + 1, 0) + bytes(10), "length 1048577 is not 1 to"),
        (HEADER.pack(2, 0) + b"ab", "checksum does not match"),
    ],
)
def test_counting_reports_where_and_why_records_are_not_sound(blob: bytes, why: str) -> None:
    with pytest.raises(CorruptRecord, match=why) as error_info:
        count_records(blob)
    assert error_info.value.why.startswith(why)
    assert "at byte" in str(error_info.value)


def test_counting_and_skipping_agree() -> None:
    blob = records(0, 10)
    for skipped in range(11):
        rest = skip_records(blob, skipped)
        assert count_records(rest) == 10 - skipped
        assert [decode_event(body).seq for body in record_bodies(rest)] == list(range(skipped, 10))


def test_reading_ends_where_a_record_is_not_whole() -> None:
    assert read_record(b"") is None
    assert read_record(record(0)[:7]) is None
    assert read_record(record(0)[:-1]) is None
    assert read_record(record(0), len(record(0))) is None


def test_reading_refuses_a_length_that_cannot_be() -> None:
    with pytest.raises(CorruptRecord, match="length"):
        read_record(HEADER.pack(MAX_RECORD + 1, 0) + bytes(8))


def test_the_next_good_record_is_found_behind_what_only_looks_like_one() -> None:
    bait = b"\x99" * 40 + struct.pack("<II", 5, 1) + b"\x99abcd"
    assert find_next_record(bait + record(3) + b"end", 1) == len(bait)
    assert find_next_record(bait, 0) is None
    assert find_next_record(b"", 0) is None


@pytest.mark.parametrize(
    "fields",
    [
        [1, 2, 3],
        {"seq": 1},
        "text",
        [1, "0", 1.0, 1, "log", 0, None, 0, None],
        [1, 0, "now", 1, "log", 0, None, 0, None],
        [1, 0, 1.0, None, "log", 0, None, 0, None],
        [1, 0, 1.0, 1, b"log", 0, None, 0, None],
        [1, 0, 1.0, 1, "log", 0.5, None, 0, None],
        [1, 0, 1.0, 1, "log", 0, "epoch", 0, None],
        [1, 0, 1.0, 1, "log", 0, None, [], None],
        [1, 0, 1.0, 1, "log", 0, None, 0, [1]],
        ["v", 0, 1.0, 1, "log", 0, None, 0, None],
    ],
)
def test_a_body_of_other_types_is_a_value_error(fields: object) -> None:
    with pytest.raises(ValueError, match=r"expected an array|wrong types"):
        decode_event(msgpack.packb(fields))


def test_fields_of_a_later_version_are_ignored() -> None:
    body = msgpack.packb([2, 7, 1.0, 1, "new_kind", 3, None, 0, {"a": 1}, "later", {}])
    event = decode_event(body)
    assert (event.version, event.seq, event.kind, event.data) == (2, 7, "new_kind", {"a": 1})


def test_nan_and_infinities_survive() -> None:
    data: dict[str, object] = {"nan": math.nan, "up": math.inf, "down": -math.inf}
    [body] = record_bodies(record(0, data))
    read = decode_event(body).data
    assert read is not None
    assert math.isnan(read["nan"])
    assert (read["up"], read["down"]) == (math.inf, -math.inf)


def test_what_cannot_be_encoded_is_asked_for() -> None:
    encoder = Encoder(default=lambda value: {"!": repr(value)})
    [body] = record_bodies(encoder.encode(0, 0.0, 0, "log", 0, None, 0, {"x": {1, 2}}))
    assert decode_event(body).data == {"x": {"!": "{1, 2}"}}


def test_the_record_matches_the_protocol_page() -> None:
    blob = record(5, {"a": 1})
    length, checksum = struct.unpack("<II", blob[:8])
    assert (length, checksum) == (len(blob) - 8, crc32(blob[8:]))
    assert msgpack.unpackb(blob[8:]) == [1, 5, 1.5, 7, "log", 5, 0.5, 0, {"a": 1}]
    assert blob[8] == 0x99
