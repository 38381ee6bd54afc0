"""What the reading client promises: everything it asked for, in order, once."""

from __future__ import annotations

import time

import pytest

from lineside.bus.broker.subscription import MAX_IN_FLIGHT
from lineside.bus.client import reader as reading
from lineside.bus.client.reader import Reader
from lineside.bus.errors import AddressError, BrokerUnreachable, ReaderDenied
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import LIVE, OFFSET, START
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer
from tests.bus.conftest import STREAM, StartBroker
from tests.bus.reading import collect, publish, seqs
from tests.support.waiting import DEADLINE


def test_a_reader_from_the_start_gets_everything_in_order(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 200)
    with Reader(settings.broker, start=START) as reader:
        batches = collect(reader, 200)
    assert seqs(batches) == list(range(200))
    assert [batch.offset for batch in batches] == [1, 2, 3, 4]
    assert {batch.stream for batch in batches} == {STREAM}
    assert reader.head == 4


def test_a_reader_that_never_commits_is_not_held_up_by_the_bytes_under_way(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CUR_SECONDS", DEADLINE)
    start_broker()
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(3 * MAX_IN_FLIGHT // 250_000):
            producer.emit("log", data={"x": "y" * 250_000})
        producer.flush()
    with Reader(settings.broker, start=START) as reader:
        while reader.offset < 1 or reader.offset < reader.head:
            assert reader.poll(10) is not None


def test_a_durable_reader_goes_on_behind_what_it_committed(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 64 * 3)
    with Reader(settings.broker, name="durable") as reader:
        first = reader.poll(5)
        assert first is not None
        reader.commit(first.offset)
        assert reader.poll(5) is not None  # had, but never committed
    with Reader(settings.broker, name="durable") as reader:
        assert seqs(collect(reader, 128)) == list(range(64, 192))


def test_a_cursor_outlives_the_broker(start_broker: StartBroker, settings: Settings) -> None:
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 128)
    with Reader(settings.broker, name="durable") as reader:
        batch = reader.poll(5)
        assert batch is not None
        reader.commit(batch.offset)
        deadline = time.monotonic() + 5
        while broker_thread.broker._journal.cursors()["durable"].offset != 1:
            assert time.monotonic() < deadline
            reader.poll(0.05)
    broker_thread.stop()
    start_broker()
    with Reader(settings.broker, name="durable") as reader:
        assert seqs(collect(reader, 64)) == list(range(64, 128))


def test_a_reader_that_comes_back_further_on_keeps_its_committed_cursor(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 64 * 4)
    with Reader(settings.broker, name="durable") as reader:
        reader.wait_connected(5)
    with Reader(settings.broker, name="durable", start=OFFSET, offset=3) as reader:
        assert reader.poll(5) is not None
    with Reader(settings.broker, name="durable") as reader:
        assert seqs(collect(reader, 256)) == list(range(256))


def test_a_reader_from_an_offset_gets_what_comes_after_it(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 64 * 3)
    with Reader(settings.broker, start=OFFSET, offset=2) as reader:
        assert seqs(collect(reader, 64)) == list(range(128, 192))


def test_a_live_reader_gets_only_what_is_yet_to_come(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 10)
    with Reader(settings.broker, start=LIVE) as reader:
        reader.wait_connected(5)
        publish(settings.broker, "later/rank0/a", 5)
        [batch] = collect(reader, 5)
        assert batch.stream == Stream("later", "rank0", "a")


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
    start_broker: StartBroker, settings: Settings, patterns: list[str], expected: set[str]
) -> None:
    broker_thread = start_broker()
    for stream in ("a/rank0/x", "a/rank0/y", "b/rank0/x", "a/shipper/x"):
        publish(settings.broker, stream, 3)

    def read() -> set[str]:
        with Reader(settings.broker, start=START, streams=patterns) as reader:
            batches = collect(reader, 3 * len(expected))
            assert reader.poll(0.1) is None
        return {str(batch.stream) for batch in batches}

    assert read() == expected  # from memory
    broker_thread.stop()
    start_broker()
    assert read() == expected  # from the journal


def test_a_filtered_durable_reader_does_not_hold_back_what_it_does_not_want(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    with Reader(settings.broker, name="durable", streams=["mine"]) as reader:
        publish(settings.broker, "mine/rank0/a", 1)
        collect(reader, 1)
        publish(settings.broker, "other/rank0/a", 64 * 5)
        deadline = time.monotonic() + 5
        while broker_thread.broker._journal.cursors()["durable"].offset < 6:
            assert time.monotonic() < deadline
            reader.poll(0.1)


def test_a_durable_reader_that_comes_back_with_wider_patterns_misses_nothing(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    with Reader(settings.broker, name="durable", streams=["mine"]) as reader:
        publish(settings.broker, "mine/rank0/a", 1)
        collect(reader, 1)
        publish(settings.broker, "other/rank0/a", 3)
        deadline = time.monotonic() + 5
        while broker_thread.broker._journal.cursors()["durable"].offset < 2:
            assert time.monotonic() < deadline
            reader.poll(0.1)
    broker_thread.stop()
    start_broker()
    with Reader(settings.broker, name="durable", streams=["mine", "other"]) as reader:
        [batch] = collect(reader, 3)
        assert batch.stream == Stream("other", "rank0", "a")


def test_a_filtered_reader_learns_that_it_has_all_up_to_the_head(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, "mine/rank0/a", 1)
    publish(settings.broker, "other/rank0/a", 64 * 5)
    with Reader(settings.broker, start=START, streams=["mine"]) as reader:
        deadline = time.monotonic() + 10
        while (batch := reader.poll(0.1)) is None:
            assert time.monotonic() < deadline
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            reader.poll(0.1)
            assert reader.processed == 0, "what was not committed is not processed"
        reader.commit(batch.offset)
        while reader.processed < 6:
            assert time.monotonic() < deadline
            reader.poll(0.1)
        assert reader.processed == reader.head == 6


def test_a_newer_reader_takes_the_name_and_the_older_is_denied(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
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


def test_an_invalid_pattern_is_denied_with_a_reason(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    with (
        Reader(settings.broker, start=START, streams=["a//b"]) as reader,
        pytest.raises(ReaderDenied, match="expected run"),
    ):
        reader.wait_connected(5)


def test_the_error_without_a_broker_names_the_address(settings: Settings) -> None:
    with Reader(settings.broker) as reader:
        assert reader.poll(0.05) is None
        with pytest.raises(BrokerUnreachable, match="no broker answered at ipc://"):
            reader.wait_connected(0.1)


def test_a_reader_that_keeps_trying_logs_once_that_no_broker_answers(
    start_broker: StartBroker,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "SILENCE_SECONDS", 0.1)
    with Reader(settings.broker) as reader:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            reader.poll(0.1)
        assert caplog.text.count(f"no broker answered at {settings.broker} within 0.1 s") == 1
        monkeypatch.undo()
        start_broker()
        reader.wait_connected(10)
    assert caplog.text.count("no broker answered") == 1


def test_an_invalid_address_is_an_error_at_once() -> None:
    with pytest.raises(AddressError, match="keys only"):
        Reader("tcp://127.0.0.1:7430")


def test_a_slow_reader_delays_no_other(start_broker: StartBroker, settings: Settings) -> None:
    start_broker()
    with (
        Reader(settings.broker, start=START, credit=4) as slow,
        Reader(settings.broker, start=START) as quick,
    ):
        slow.wait_connected(5)
        publish(settings.broker, STREAM, 64 * 300)
        assert seqs(collect(quick, 64 * 300)) == list(range(64 * 300))
        # It gets everything all the same, when it comes to it.
        assert seqs(collect(slow, 64 * 300)) == list(range(64 * 300))


def test_a_poll_of_no_time_returns_what_is_there(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 3)
    with Reader(settings.broker, start=START) as reader:
        deadline = time.monotonic() + 5
        batch = None
        while batch is None:
            assert time.monotonic() < deadline
            batch = reader.poll(0)
        assert seqs([batch]) == [0, 1, 2]


def test_another_journal_is_read_from_its_start(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 64 * 5)
    with Reader(settings.broker, start=START) as reader:
        assert seqs(collect(reader, 320)) == list(range(320))
        known = reader.journal
        broker_thread.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        start_broker()
        publish(settings.broker, "new/rank0/a", 3)
        [batch] = collect(reader, 3)
        assert (batch.stream, batch.offset) == (Stream("new", "rank0", "a"), 1)
        assert reader.journal != known


def test_an_offset_of_another_journal_is_not_believed(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 64 * 2)
    with Reader(settings.broker, name="r", start=OFFSET, offset=2, journal="another") as reader:
        assert seqs(collect(reader, 128)) == list(range(128))


def test_an_older_copy_of_the_journal_is_read_from_its_start(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 64)
    broker_thread.stop()
    older = settings.journal.read_bytes()
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 64 * 3)
    with Reader(settings.broker, start=START) as reader:
        assert seqs(collect(reader, 192)) == list(range(192))
        known = (reader.journal, reader.restarts)
        broker_thread.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        settings.journal.write_bytes(older)
        start_broker()
        publish(settings.broker, "new/rank0/a", 3)
        [batch] = collect(reader, 3)
        assert (batch.stream, seqs([batch])) == (Stream("new", "rank0", "a"), [0, 1, 2])
        assert (reader.journal, reader.restarts - 1) == known
    assert batch.offset < 4  # which the reader had seen before, with other events


def test_a_live_reader_over_a_new_journal_stays_live(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    publish(settings.broker, STREAM, 3)
    with Reader(settings.broker, start=LIVE, journal="another") as reader:
        reader.wait_connected(5)
        publish(settings.broker, "new/rank0/a", 2)
        [batch] = collect(reader, 2)
        assert batch.stream == Stream("new", "rank0", "a")


def test_closing_hands_over_what_was_committed(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 64 * 10)
    for expected in range(1, 11):
        with Reader(settings.broker, name="durable") as reader:
            batch = reader.poll(5)
            assert batch is not None
            assert batch.offset == expected
            reader.commit(batch.offset)
    assert broker_thread.error is None


def test_a_reader_learns_the_names_below_its_own_and_a_name_can_be_forgotten(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker_thread = start_broker()
    publish(settings.broker, STREAM, 64 * 3)
    for name in ("many/b", "many/a", "manyfold/c", "other/a"):
        with Reader(settings.broker, name=name, start=OFFSET, offset=2) as below:
            below.wait_connected(5)
    with Reader(settings.broker, name="many") as reader:
        reader.wait_connected(5)
        assert reader.names_below == ("many/a", "many/b")
    with Reader(settings.broker, name="many/a") as below:
        batch = below.poll(5)
        assert batch is not None
        assert batch.offset == 3  # where it was
        below.commit(batch.offset)
        below.forget()
    with Reader(settings.broker, name="many") as reader:
        reader.wait_connected(5)
        assert reader.names_below == ("many/b",)
    broker_thread.stop()
    assert start_broker().broker._journal.cursors().keys() == {
        "many",
        "many/b",
        "manyfold/c",
        "other/a",
    }
