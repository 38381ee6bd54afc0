"""What the broker does for its readers: at the head, with a full queue, when they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lineside.bus.broker import subscriptions
from lineside.bus.broker.service import Broker
from lineside.bus.broker.subscription import MAX_CREDIT
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    MAX_PATTERNS,
    OK,
    START,
    Ack,
    Cur,
    Evt,
    Hi,
    Message,
    Put,
    Sub,
)
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer, read_all
from tests.bus.broker.secured_broker import denial_of, is_accepted
from tests.bus.conftest import STREAM, Connect, RawClient, StartBroker, records
from tests.support.waiting import wait_until


def test_a_batch_reaches_the_reader_as_it_was_put(start_broker: StartBroker, peer: Connect) -> None:
    start_broker()
    producer, reader = peer(), peer()
    blob = records(0, 3)
    producer.request(Hi(STREAM))
    producer.request(Put(STREAM, 0, 3, blob))
    ack = reader.request(Sub("", START, 0, (), 10))
    assert isinstance(ack, Ack)
    assert (ack.next, ack.status, ack.head) == (0, OK, 1)
    assert reader.receive() == Evt(1, STREAM, 0, 3, blob)


def test_as_many_patterns_as_may_be_of_the_longest_runs_are_one_question(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    reader, producer = peer(), peer()
    runs = tuple(f"{number:0128}/control" for number in range(MAX_PATTERNS))
    ack = reader.request(Sub("", START, 0, runs, 10))
    assert isinstance(ack, Ack)
    assert ack.status == OK
    for stream in (STREAM, Stream.parse(f"{runs[-1]}/one")):
        producer.request(Hi(stream))
        producer.request(Put(stream, 0, 3, records(0, 3)))
    assert reader.receive() == Evt(2, stream, 0, 3, records(0, 3))


def test_readers_at_the_head_are_served_from_a_bounded_piece_of_memory(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_TAIL_BYTES", 100_000)
    broker_thread = start_broker()
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(64 * 40):
            producer.emit("log", data={"x": "y" * 100})
        producer.flush()
        producer.skip(1)
        producer.flush()
    readers = broker_thread.broker._subscriptions
    assert 0 < len(readers._tail) < 20
    assert readers._tail_bytes <= 100_000
    assert len(read_all(settings.broker)) == 64 * 40


def test_a_reader_whose_queue_is_full_is_served_when_it_reads_again(
    start_broker: StartBroker, peer: Connect, settings: Settings
) -> None:
    start_broker()
    reader = peer()
    reader.request(Sub("", START, 0, (), MAX_CREDIT))
    with Producer(settings.broker, STREAM) as producer:
        # More messages than both queues and the kernel's buffers hold.
        for _ in range(1000):
            producer.emit("log", data={"x": "y" * 5000})
            if producer.next_seq % 10 == 0:
                producer.poll(0)
        producer.flush()
        for _ in range(1000):
            producer.emit("log", data={"x": "y" * 5000})
            producer.poll(0)
        producer.flush(30)
    seqs: list[int] = []
    while len(seqs) < 2000:
        message = reader.receive(5)
        if isinstance(message, Evt):
            seqs += range(message.first_seq, message.first_seq + message.count)
            reader.send(Cur(message.offset, 1))
    assert seqs == list(range(2000))


def test_a_reader_that_is_gone_is_forgotten(start_broker: StartBroker, settings: Settings) -> None:
    broker_thread = start_broker()
    gone = RawClient(settings.broker)
    gone.request(Sub("gone", START, 0, (), 10))
    gone.close()
    with Producer(settings.broker, STREAM) as producer:
        deadline = time.monotonic() + 5
        while "gone" in broker_thread.broker._subscriptions.connected_names:
            assert time.monotonic() < deadline
            producer.emit("log")
            producer.flush()


def test_the_end_of_an_earlier_connection_does_not_end_delivery_to_the_next_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(settings)
    broker.startup()
    peers = [RawClient(settings.broker)]
    receive, sub = broker._receiver.receive, Sub("", START, 0, (), 10)

    def receive_after_another_peer_came(handle: Callable[..., bool]) -> None:
        monkeypatch.undo()
        # The broker has looked at its connections. The next one gets the descriptor of this one.
        peers[0].close()
        wait_until(lambda: broker._monitor.events.poll(0), "the end of the connection")
        peers.append(RawClient(settings.broker))
        peers[1].send(sub)
        wait_until(lambda: broker._socket.poll(0), "the message of the next peer")
        receive(handle)

    def answer(peer: RawClient) -> Message:
        def is_answered() -> bool:
            broker.run_once()
            return bool(peer.socket.poll(0))

        wait_until(is_answered, "an answer")
        return peer.receive()

    try:
        peers[0].send(sub)
        answer(peers[0])
        monkeypatch.setattr(broker._receiver, "receive", receive_after_another_peer_came)
        broker.run_once()
        answer(peers[1])
        for message in (Hi(STREAM), Put(STREAM, 0, 3, records(0, 3))):
            peers[1].send(message)
            answer(peers[1])
        assert answer(peers[1]) == Evt(1, STREAM, 0, 3, records(0, 3))
    finally:
        for each in peers:
            each.close()
        broker.shutdown()


def test_an_earlier_subscription_of_a_reader_takes_nothing_from_its_newest(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    old, new, other, producer = peer(), peer(), peer(), peer()
    assert is_accepted(old.request(Sub("r", START, 0, (), 10, "one", 1)))
    assert is_accepted(new.request(Sub("r", START, 0, (), 10, "one", 2)))
    old.send(Sub("r", START, 0, (), 10, "one", 1))
    assert old.receives_nothing(), "a reader that moved is not another reader"
    producer.request(Hi(STREAM))
    producer.request(Put(STREAM, 0, 3, records(0, 3)))
    assert isinstance(new.receive(), Evt)
    assert is_accepted(other.request(Sub("r", START, 0, (), 10, "two", 1)))
    assert "another reader named 'r' took over" in denial_of(new.receive())


def test_readers_that_do_not_identify_themselves_are_different_ones(
    start_broker: StartBroker, peer: Connect
) -> None:
    start_broker()
    old, new = peer(), peer()
    assert is_accepted(old.request(Sub("r", START, 0, (), 10)))
    assert is_accepted(new.request(Sub("r", START, 0, (), 10)))
    assert "another reader named 'r' took over" in denial_of(old.receive())
