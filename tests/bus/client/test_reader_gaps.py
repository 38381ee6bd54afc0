"""A reader has a word about everything missing."""

from __future__ import annotations

import sqlite3
import struct
import time
from zlib import crc32

import msgpack
import pytest

from lineside.bus.broker import subscriptions
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import UNREADABLE, Gap
from lineside.bus.protocol.messages import LIVE, START, Hi, Put
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer
from tests.bus.conftest import STREAM, Connect, StartBroker, record
from tests.bus.reading import collect, publish, seqs


def test_a_gap_of_the_producer_is_a_gap_of_the_reader(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    with Producer(settings.broker, STREAM) as producer:
        producer.emit("log")
        producer.skip(5)
        producer.emit("log")
        producer.flush()
    with Reader(settings.broker, start=START) as reader:
        batches = collect(reader, 2)
    assert [batch.gaps for batch in batches] == [(), (Gap(STREAM, 1, 6),), ()]
    assert batches[1].gaps[0].is_reported


def test_damage_in_the_journal_is_a_gap_around_which_reading_goes_on(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 10)
    broker_thread.stop()
    with sqlite3.connect(settings.journal) as journal:
        [(blob,)] = journal.execute("SELECT blob FROM entries").fetchall()
        blob = bytearray(blob)
        size = len(blob) // 10
        blob[size * 3 + 20] ^= 0xFF
        blob[-1] ^= 0xFF
        journal.execute("UPDATE entries SET blob = ?", (bytes(blob),))
    journal.close()
    start_broker()
    with Reader(settings.broker, start=START) as reader:
        [batch] = collect(reader, 8)
    assert seqs([batch]) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert batch.gaps == (Gap(STREAM, 3, 4), Gap(STREAM, 9, 10))
    assert not any(gap.is_reported for gap in batch.gaps)


def test_sound_records_that_are_no_events_are_unreadable_or_gaps(
    start_broker: StartBroker, peer: Connect, settings: Settings
) -> None:
    start_broker()
    producer = peer()
    producer.request(Hi(STREAM))

    def sound(body: bytes) -> bytes:
        return struct.pack("<II", len(body), crc32(body)) + body

    blob = (
        record(0)
        + sound(b"\xc1")  # not msgpack
        + sound(msgpack.packb([1, 2, 3]))  # too short
        + record(9)  # a seq that is none of this batch
        + record(4)
        + record(4)  # twice
    )
    producer.request(Put(STREAM, 0, 6, blob))
    with Reader(settings.broker, start=START) as reader:
        [batch] = collect(reader, 2)
    assert seqs([batch]) == [0, 1, 2, 4]
    assert [event.kind == UNREADABLE for event in batch.events] == [False, True, True, False]
    assert batch.gaps == (Gap(STREAM, 3, 4), Gap(STREAM, 5, 6))


def test_a_live_reader_that_lags_is_skipped_forward_with_a_gap(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "LIVE_LAG", 8)
    start_broker()
    with (
        Reader(settings.broker, start=LIVE, credit=2) as reader,
        Producer(settings.broker, STREAM) as producer,
    ):
        reader.wait_connected(5)
        producer.emit("log")
        producer.flush()
        events = [event for batch in collect(reader, 1) for event in batch.events]
        for _ in range(64 * 20):
            producer.emit("log")
        producer.flush()
        gaps: list[Gap] = []
        deadline = time.monotonic() + 10
        while not any(gap.stream == STREAM for gap in gaps):
            assert time.monotonic() < deadline
            producer.emit("log")
            producer.flush()
            batch = reader.poll(0.1)
            if batch:
                gaps += batch.gaps
                events += batch.events
    assert max(gap.count for gap in gaps if gap.stream is None) > 8
    lost = sum(gap.count for gap in gaps if gap.stream == STREAM)
    assert lost + len(events) == events[-1].seq + 1
