"""What the reading client promises: in order, once, and a word about everything missing."""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from zlib import crc32

import msgpack
import pytest
import zmq

from lineside.bus import reader as reader_module
from lineside.bus import sockets, subscriptions
from lineside.bus.errors import AddressError, BrokerUnreachable, ReaderDenied
from lineside.bus.events import Gap, Stream
from lineside.bus.messages import (
    CURSOR,
    LIVE,
    OFFSET,
    OK,
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
from lineside.bus.reader import Batch, Reader
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Link, Producer
from tests.bus.conftest import STREAM, Peer, Served, record, records

Serve = Callable[..., Served]
Connect = Callable[[], Peer]


def collect(reader: Reader, events: int, timeout: float = 10.0) -> list[Batch]:
    """Batches until they hold so many events, each committed."""
    batches: list[Batch] = []
    until = time.monotonic() + timeout
    while sum(len(batch.events) for batch in batches) < events:
        assert time.monotonic() < until, f"{batches}"
        batch = reader.poll(0.1)
        if batch is not None:
            batches.append(batch)
            reader.commit(batch.offset)
    return batches


def seqs(batches: list[Batch]) -> list[int]:
    return [event.seq for batch in batches for event in batch.events]


def publish(address: str, stream: Stream | str, count: int) -> None:
    with Producer(address, stream) as producer:
        for step in range(count):
            producer.emit("log", step=step)
        producer.flush()


def test_a_reader_from_the_start_gets_everything_in_order(serve: Serve, settings: Settings) -> None:
    serve()
    publish(settings.broker, STREAM, 200)
    with Reader(settings.broker, start=START) as reader:
        batches = collect(reader, 200)
    assert seqs(batches) == list(range(200))
    assert [batch.offset for batch in batches] == [1, 2, 3, 4]
    assert {batch.stream for batch in batches} == {STREAM}
    assert reader.head == 4


def test_a_durable_reader_goes_on_behind_what_it_committed(
    serve: Serve, settings: Settings
) -> None:
    serve()
    publish(settings.broker, STREAM, 64 * 3)
    with Reader(settings.broker, name="durable") as reader:
        first = reader.poll(5)
        assert first is not None
        reader.commit(first.offset)
        assert reader.poll(5) is not None  # had, but never committed
    with Reader(settings.broker, name="durable") as reader:
        assert seqs(collect(reader, 128)) == list(range(64, 192))


def test_a_cursor_outlives_the_broker(serve: Serve, settings: Settings) -> None:
    served = serve()
    publish(settings.broker, STREAM, 128)
    with Reader(settings.broker, name="durable") as reader:
        batch = reader.poll(5)
        assert batch is not None
        reader.commit(batch.offset)
        deadline = time.monotonic() + 5
        while served.broker._journal.cursors().get("durable") != 1:
            assert time.monotonic() < deadline
            reader.poll(0.05)
    served.stop()
    serve()
    with Reader(settings.broker, name="durable") as reader:
        assert seqs(collect(reader, 64)) == list(range(64, 128))


def test_a_reader_that_comes_back_further_on_keeps_its_committed_cursor(
    serve: Serve, settings: Settings
) -> None:
    serve()
    publish(settings.broker, STREAM, 64 * 4)
    with Reader(settings.broker, name="durable") as reader:
        reader.wait_connected(5)
    with Reader(settings.broker, name="durable", start=OFFSET, offset=3) as reader:
        assert reader.poll(5) is not None
    with Reader(settings.broker, name="durable") as reader:
        assert seqs(collect(reader, 256)) == list(range(256))


def test_a_reader_from_an_offset_gets_what_comes_after_it(serve: Serve, settings: Settings) -> None:
    serve()
    publish(settings.broker, STREAM, 64 * 3)
    with Reader(settings.broker, start=OFFSET, offset=2) as reader:
        assert seqs(collect(reader, 64)) == list(range(128, 192))


def test_a_live_reader_gets_only_what_is_yet_to_come(serve: Serve, settings: Settings) -> None:
    serve()
    publish(settings.broker, STREAM, 10)
    with Reader(settings.broker, start=LIVE) as reader:
        reader.wait_connected(5)
        publish(settings.broker, "later/rank0/a", 5)
        [batch] = collect(reader, 5)
        assert batch.stream == Stream("later", "rank0", "a")


def test_a_live_reader_that_lags_is_skipped_forward_with_a_gap(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "LIVE_LAG", 8)
    serve()
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


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a"], {"a/rank0/x", "a/rank0/y", "a/shipper/x"}),
        (["a/rank0"], {"a/rank0/x", "a/rank0/y"}),
        (["a/rank0/y", "b"], {"a/rank0/y", "b/rank0/x"}),
        (["*/shipper"], {"a/shipper/x"}),
        (["*/*/x"], {"a/rank0/x", "a/shipper/x", "b/rank0/x"}),
    ],
)
def test_a_reader_gets_only_the_streams_it_asked_for(
    serve: Serve, settings: Settings, patterns: list[str], expected: set[str]
) -> None:
    served = serve()
    for stream in ("a/rank0/x", "a/rank0/y", "b/rank0/x", "a/shipper/x"):
        publish(settings.broker, stream, 3)

    def read() -> set[str]:
        with Reader(settings.broker, start=START, streams=patterns) as reader:
            batches = collect(reader, 3 * len(expected))
            assert reader.poll(0.1) is None
        return {str(batch.stream) for batch in batches}

    assert read() == expected  # from memory
    served.stop()
    serve()
    assert read() == expected  # from the journal


def test_a_filtered_durable_reader_does_not_hold_back_what_it_does_not_want(
    serve: Serve, settings: Settings
) -> None:
    served = serve()
    with Reader(settings.broker, name="durable", streams=["mine"]) as reader:
        publish(settings.broker, "mine/rank0/a", 1)
        collect(reader, 1)
        publish(settings.broker, "other/rank0/a", 64 * 5)
        deadline = time.monotonic() + 5
        while served.broker._journal.cursors().get("durable", 0) < 6:
            assert time.monotonic() < deadline
            reader.poll(0.1)


def test_a_newer_reader_takes_the_name_and_the_older_is_told(
    serve: Serve, settings: Settings
) -> None:
    serve()
    with Reader(settings.broker, name="one") as older:
        older.wait_connected(5)
        with Reader(settings.broker, name="one") as newer:
            newer.wait_connected(5)
            with pytest.raises(ReaderDenied, match="another reader named 'one' took over"):
                older.poll(5)
            with pytest.raises(ReaderDenied):
                older.poll(0)
            publish(settings.broker, STREAM, 3)
            assert seqs(collect(newer, 3)) == [0, 1, 2]


def test_a_pattern_that_is_none_is_denied_with_a_sentence(serve: Serve, settings: Settings) -> None:
    serve()
    with (
        Reader(settings.broker, start=START, streams=["a//b"]) as reader,
        pytest.raises(ReaderDenied, match="expected run"),
    ):
        reader.wait_connected(5)


def test_nobody_there_is_told_with_the_address(settings: Settings) -> None:
    with Reader(settings.broker) as reader:
        assert reader.poll(0.05) is None
        with pytest.raises(BrokerUnreachable, match="no broker answered at ipc://"):
            reader.wait_connected(0.1)


def test_an_address_that_cannot_be_is_told_at_once() -> None:
    with pytest.raises(AddressError, match="without keys"):
        Reader("tcp://127.0.0.1:7430")


def test_a_slow_reader_holds_up_nobody(serve: Serve, settings: Settings) -> None:
    serve()
    with (
        Reader(settings.broker, start=START, credit=4) as slow,
        Reader(settings.broker, start=START) as quick,
    ):
        slow.wait_connected(5)
        publish(settings.broker, STREAM, 64 * 300)
        assert seqs(collect(quick, 64 * 300)) == list(range(64 * 300))
        # It gets everything all the same, when it comes to it.
        assert seqs(collect(slow, 64 * 300)) == list(range(64 * 300))


def test_a_poll_of_no_time_returns_what_is_there(serve: Serve, settings: Settings) -> None:
    serve()
    publish(settings.broker, STREAM, 3)
    with Reader(settings.broker, start=START) as reader:
        deadline = time.monotonic() + 5
        batch = None
        while batch is None:
            assert time.monotonic() < deadline
            batch = reader.poll(0)
        assert seqs([batch]) == [0, 1, 2]


def test_a_gap_of_the_producer_is_a_gap_of_the_reader(serve: Serve, settings: Settings) -> None:
    serve()
    with Producer(settings.broker, STREAM) as producer:
        producer.emit("log")
        producer.lose(5)
        producer.emit("log")
        producer.flush()
    with Reader(settings.broker, start=START) as reader:
        batches = collect(reader, 2)
    assert [batch.gaps for batch in batches] == [(), (Gap(STREAM, 1, 6),), ()]


def test_damage_in_the_journal_is_a_gap_around_which_reading_goes_on(
    serve: Serve, settings: Settings
) -> None:
    served = serve()
    publish(settings.broker, STREAM, 10)
    served.stop()
    with sqlite3.connect(settings.journal) as journal:
        [(blob,)] = journal.execute("SELECT blob FROM entries").fetchall()
        blob = bytearray(blob)
        size = len(blob) // 10
        blob[size * 3 + 20] ^= 0xFF
        blob[-1] ^= 0xFF
        journal.execute("UPDATE entries SET blob = ?", (bytes(blob),))
    journal.close()
    serve()
    with Reader(settings.broker, start=START) as reader:
        [batch] = collect(reader, 8)
    assert seqs([batch]) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert batch.gaps == (Gap(STREAM, 3, 4), Gap(STREAM, 9, 10))


def test_sound_records_that_are_no_events_are_gaps(
    serve: Serve, peer: Connect, settings: Settings
) -> None:
    serve()
    producer = peer()
    producer.ask(Hi(STREAM))

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
    producer.ask(Put(STREAM, 0, 6, blob))
    with Reader(settings.broker, start=START) as reader:
        [batch] = collect(reader, 2)
    assert seqs([batch]) == [0, 4]
    assert batch.gaps == (Gap(STREAM, 1, 4), Gap(STREAM, 5, 6))


class Fake:
    """Plays the broker's part by hand: hears one reader, says what the test wants."""

    def __init__(self, address: str) -> None:
        self.context: sockets.Context = zmq.Context()
        self.claim = sockets.Claim(address)
        self.socket = sockets.router(self.context, self.claim)

    def hear(self) -> Message:
        assert self.socket.poll(5000)
        self.identity, *frames = self.socket.recv_multipart()
        return decode(frames)

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.socket.send_multipart([self.identity, *message.encode()])

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.claim.release()


@pytest.fixture
def fake(settings: Settings) -> Iterator[Fake]:
    broker = Fake(settings.broker)
    yield broker
    broker.close()


def said(name: str, offset: int = 0, journal: str = "j") -> Ack:
    return Ack(name, offset, OK, 9, journal)


def test_what_comes_twice_is_given_once(fake: Fake, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        assert reader.poll(0.2) is None
        assert fake.hear() == Sub("", START, 0, (), 64)
        fake.say(
            said(""),
            Evt(1, STREAM, 0, 3, records(0, 3)),
            GapMessage(None, 2, 4, 3),
            Evt(4, STREAM, 3, 2, records(3, 5)),
            GapMessage(STREAM, 5, 7, 5),
            # A second answer, as after two subscriptions that crossed.
            said(""),
            Evt(1, STREAM, 0, 3, records(0, 3)),
            GapMessage(None, 2, 4, 3),
            Evt(4, STREAM, 3, 2, records(3, 5)),
            GapMessage(STREAM, 5, 7, 5),
            Evt(6, STREAM, 4, 4, records(4, 8)),
        )
        batches = [reader.poll(5) for _ in range(5)]
    assert [batch and (batch.offset, seqs([batch]), batch.gaps) for batch in batches] == [
        (1, [0, 1, 2], ()),
        (3, [], (Gap(None, 2, 4),)),
        (4, [3, 4], ()),
        (5, [], (Gap(STREAM, 5, 7),)),
        (6, [7], ()),
    ]


def test_a_jump_between_deliveries_is_a_gap(fake: Fake, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake.hear()
        fake.say(
            said(""),
            Evt(1, STREAM, 5, 1, record(5)),  # where a stream begins is nobody's gap
            Evt(2, STREAM, 9, 1, record(9)),
        )
        batches = [reader.poll(5), reader.poll(5)]
    assert [batch and batch.gaps for batch in batches] == [(), (Gap(STREAM, 6, 9),)]


def test_what_comes_before_the_answer_to_a_subscription_is_not_taken(
    fake: Fake, settings: Settings
) -> None:
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake.hear()
        fake.say(
            Evt(1, STREAM, 0, 1, record(0)),
            GapMessage(STREAM, 1, 2, 2),
            said(""),
            Evt(2, STREAM, 1, 1, record(1)),
        )
        batch = reader.poll(5)
    assert batch is not None
    assert seqs([batch]) == [1]


def test_a_reader_that_is_not_known_subscribes_behind_what_it_was_given(
    fake: Fake, settings: Settings
) -> None:
    with Reader(settings.broker, name="r") as reader:
        reader.poll(0.2)
        assert fake.hear() == Sub("r", CURSOR, 0, (), 64)
        fake.say(said("r", 6), Evt(7, STREAM, 0, 1, record(0)))
        assert reader.poll(5) is not None
        fake.say(Who())
        assert reader.poll(0.2) is None
        assert fake.hear() == Sub("r", OFFSET, 7, (), 64)


def test_a_reader_says_every_second_how_far_it_is_and_learns_the_head(
    fake: Fake, settings: Settings
) -> None:
    with Reader(settings.broker, name="r") as reader:
        reader.poll(0.2)
        fake.hear()
        fake.say(said("r"), Evt(7, STREAM, 0, 1, record(0)))
        assert reader.poll(5) is not None
        assert reader.head == 9
        reader.commit(7)
        assert fake.hear() == Cur(7, 1)
        fake.say(Ack("r", 7, OK, 12))
        assert reader.poll(1.2) is None
        assert reader.head == 12
        assert fake.hear() == Cur(7, 0)


def test_credit_goes_back_before_it_runs_out(fake: Fake, settings: Settings) -> None:
    with Reader(settings.broker, start=START, credit=4) as reader:
        reader.poll(0.2)
        fake.hear()
        fake.say(said(""), *(Evt(o, STREAM, o, 1, record(o)) for o in range(1, 5)))
        for _ in range(4):
            assert reader.poll(5) is not None
        assert fake.hear() == Cur(0, 2)


def test_a_subscription_without_an_answer_is_sent_again(fake: Fake, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        assert reader.poll(1.5) is None
        assert fake.hear() == fake.hear() == Sub("", START, 0, (), 64)


def test_words_that_are_none_are_passed_over(fake: Fake, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake.hear()
        fake.say(said(""))
        fake.socket.send_multipart([fake.identity, b"NO", b"\xff"])
        fake.socket.send_multipart([fake.identity, b"EVT", b"short"])
        fake.say(Cur(1, 1), Evt(1, STREAM, 0, 1, record(0)))
        batch = reader.poll(5)
    assert batch is not None
    assert seqs([batch]) == [0]


def test_another_journal_is_read_from_its_start(serve: Serve, settings: Settings) -> None:
    served = serve()
    publish(settings.broker, STREAM, 64 * 5)
    with Reader(settings.broker, start=START) as reader:
        assert seqs(collect(reader, 320)) == list(range(320))
        known = reader.journal
        served.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        serve()
        publish(settings.broker, "new/rank0/a", 3)
        [batch] = collect(reader, 3)
        assert (batch.stream, batch.offset) == (Stream("new", "rank0", "a"), 1)
        assert reader.journal != known


def test_an_offset_of_another_journal_is_not_believed(serve: Serve, settings: Settings) -> None:
    serve()
    publish(settings.broker, STREAM, 64 * 2)
    with Reader(settings.broker, name="r", start=OFFSET, offset=2, journal="another") as reader:
        assert seqs(collect(reader, 128)) == list(range(128))


def test_a_live_reader_over_a_new_journal_stays_live(serve: Serve, settings: Settings) -> None:
    serve()
    publish(settings.broker, STREAM, 3)
    with Reader(settings.broker, start=LIVE, journal="another") as reader:
        reader.wait_connected(5)
        publish(settings.broker, "new/rank0/a", 2)
        [batch] = collect(reader, 2)
        assert batch.stream == Stream("new", "rank0", "a")


@pytest.mark.fault
def test_a_reader_goes_on_over_kills_of_the_broker(broker: BrokerProcess) -> None:
    with (
        Producer(broker.address, STREAM) as producer,
        Reader(broker.address, name="durable") as reader,
    ):
        got: list[int] = []
        for round_ in range(5):
            for _ in range(100):
                producer.emit("log")
            producer.flush(timeout=20)
            got += seqs(collect(reader, 100, timeout=20))
            assert got == list(range(100 * (round_ + 1)))
            broker.kill()
            assert reader.poll(0.05) is None
            broker.start()


@pytest.mark.fault
def test_a_frozen_broker_blocks_no_poll_and_is_followed_when_it_thaws(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "SILENCE_SECONDS", 1.0)
    with (
        Producer(broker.address, STREAM) as producer,
        Reader(broker.address, name="durable") as reader,
    ):
        producer.emit("log")
        producer.flush()
        assert seqs(collect(reader, 1)) == [0]
        broker.freeze()
        began = time.monotonic()
        for _ in range(8):
            assert reader.poll(0.5) is None
        assert 3.9 < time.monotonic() - began < 6
        broker.resume()
        producer.emit("log")
        producer.flush(20)
        assert seqs(collect(reader, 1)) == [1]


@pytest.mark.fault
@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_reader_goes_on_over_a_broken_connection(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(reader_module, "SILENCE_SECONDS", 1.0)
    with (
        Link(broker.home / "link", broker.address) as link,
        Producer(broker.address, STREAM) as producer,
        Reader(link.address, start=START) as reader,
    ):
        for _ in range(100):
            producer.emit("log")
        producer.flush()
        got = seqs(collect(reader, 100))
        getattr(link, how)()
        for _ in range(100):
            producer.emit("log")
        producer.flush()
        assert reader.poll(1.5) is None
        link.mend()
        got += seqs(collect(reader, 100))
        assert got == list(range(200))


def test_closing_hands_over_what_was_committed(serve: Serve, settings: Settings) -> None:
    served = serve()
    publish(settings.broker, STREAM, 64 * 10)
    for expected in range(1, 11):
        with Reader(settings.broker, name="durable") as reader:
            batch = reader.poll(5)
            assert batch is not None
            assert batch.offset == expected
            reader.commit(batch.offset)
    assert served.error is None
