"""A broker that fails, or whose journal does: nothing confirmed is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from lineside.bus import sockets
from lineside.bus.broker.service import Broker
from lineside.bus.broker.storage.sqlite_scan import SqliteScan
from lineside.bus.client.reader import Reader
from lineside.bus.errors import JournalDamaged, JournalError
from lineside.bus.protocol.messages import DENIED, FULL, OK, START, Ack, Hi, Put
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from tests.bus.conftest import (
    STREAM,
    BrokerThread,
    Connect,
    RawClient,
    StartBroker,
    fail_with,
    record,
)
from tests.faults.session import repeats
from tests.support.waiting import DEADLINE, wait_until


def test_a_fault_in_handling_one_message_does_not_end_the_broker(
    start_broker: StartBroker, peer: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker_thread = start_broker()
    producer = peer()
    producer.request(Hi(STREAM))

    def fail(message: Put) -> str:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(broker_thread.broker._buffer, "put", fail)
        answer = producer.request(Put(STREAM, 0, 1, record(0)))
    assert isinstance(answer, Ack)
    assert (answer.status, answer.text) == (DENIED, "the broker failed on this message")
    again = producer.request(Put(STREAM, 0, 1, record(0)))
    assert isinstance(again, Ack)
    assert (again.status, again.next) == (OK, 1)


def test_a_client_that_closes_before_a_frozen_broker_took_its_messages_does_not_end_it(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HEARTBEAT_MS", 200)
    client = RawClient(broker.address)
    client.request(Hi(STREAM))
    broker.freeze()
    for seq in range(100):
        client.send(Put(STREAM, seq, 1, record(seq)))
    time.sleep(0.5)  # a heartbeat follows them
    client.close()
    broker.resume()
    with Producer(broker.address, "run/rank1/a") as producer:
        producer.emit("log")
        producer.flush(DEADLINE)


def test_a_damaged_journal_ends_the_broker_with_a_sentence(
    start_broker: StartBroker, settings: Settings
) -> None:
    settings.journal.write_bytes(b"this is not a database at all, " * 1000)
    with pytest.raises(JournalError, match=r"is damaged .*move it aside"):
        BrokerThread(Broker(settings))


def test_a_journal_damaged_under_the_broker_ends_it_with_a_sentence(
    start_broker: StartBroker, peer: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker_thread = start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    monkeypatch.setattr(
        broker_thread.broker._journal, "append", fail_with(JournalDamaged("damaged"))
    )
    producer.send(Put(STREAM, 0, 1, record(0)))
    wait_until(lambda: broker_thread.error)
    assert isinstance(broker_thread.error, JournalDamaged)
    broker_thread.error = None


def test_a_full_journal_is_answered_keeps_nothing_and_recovers(
    small_disk: Callable[[], Path],
) -> None:
    disk = small_disk()
    full = Settings.from_env({"LINESIDE_HOME": str(disk)})
    broker_thread = BrokerThread(Broker(full))
    producer = RawClient(full.broker)
    try:
        producer.request(Hi(STREAM))
        seq, blob = 0, b""
        while True:
            blob = record(seq, {"x": "y" * 200_000})
            answer = producer.request(Put(STREAM, seq, 1, blob))
            assert isinstance(answer, Ack)
            if answer.status == FULL:
                break
            assert answer == Ack(str(STREAM), seq + 1, OK, seq + 1)
            seq += 1
            if seq == 5:
                (disk / "ballast").write_bytes(bytes(6 << 20))
        assert answer.next == seq
        assert "is full: free some space" in answer.text
        # Everything before can be read.
        events = read_all(full.broker, until=lambda events: len(events) == seq)
        assert [event.seq for event in events] == list(range(seq))
        assert producer.request(Hi(STREAM)) == Ack(str(STREAM), seq, OK, seq, ANY)
        (disk / "ballast").unlink()
        assert producer.request(Put(STREAM, seq, 1, blob)) == Ack(str(STREAM), seq + 1, OK, seq + 1)
    finally:
        producer.close()
        broker_thread.stop()
    assert broker_thread.error is None


def test_a_reader_waits_for_a_journal_that_cannot_be_read_just_now(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker_thread = start_broker()
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(10):
            producer.emit("log")
        producer.flush()
    broker_thread.stop()
    start_broker()
    with monkeypatch.context() as patch, Reader(settings.broker, start=START) as reader:
        patch.setattr(SqliteScan, "read", fail_with(JournalError("I/O")))
        assert reader.poll(0.3) is None
        patch.undo()
        batch = reader.poll(5)
        assert batch is not None
        assert len(batch.events) == 10


@pytest.mark.fault
def test_nothing_confirmed_is_lost_or_doubled_by_kills_of_the_broker(
    broker: BrokerProcess,
) -> None:
    total = 3000
    confirmed: list[int] = [0]
    read: list[int] = []
    failed: list[BaseException] = []

    def produce() -> None:
        with Producer(broker.address, STREAM) as producer:
            while producer.next_seq < total:
                for _ in range(10):
                    producer.emit("log", step=producer.next_seq)
                producer.flush(timeout=DEADLINE)
                confirmed[0] = producer.acked

    def follow() -> None:
        until = time.monotonic() + 90
        with Reader(broker.address, name="follower") as reader:
            while len(read) < total and time.monotonic() < until:
                batch = reader.poll(0.5)
                if batch is not None:
                    assert not batch.gaps
                    read.extend(event.seq for event in batch.events)
                    reader.commit(batch.offset)

    def guarded(part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(part,)) for part in (produce, follow)]
    for thread in threads:
        thread.start()
    rng = random.Random(9)
    for _ in repeats(1000):
        if not threads[0].is_alive():
            break
        time.sleep(rng.uniform(0.05, 0.4))
        before = confirmed[0]
        broker.kill()
        broker.start()
        seqs = [event.seq for event in read_all(broker.address)]
        assert seqs == list(range(len(seqs)))
        assert len(seqs) >= before
    for thread in threads:
        thread.join()
    assert failed == []
    assert read == list(range(total))
    events = read_all(broker.address)
    assert [(event.seq, event.step) for event in events] == [(seq, seq) for seq in range(total)]
