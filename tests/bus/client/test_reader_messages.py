"""The messages of a reader, against a broker played by the test."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest
import zmq

from lineside.bus import sockets
from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import UNREADABLE, Gap
from lineside.bus.protocol.messages import (
    CURSOR,
    OFFSET,
    OK,
    START,
    Ack,
    Cur,
    Evt,
    GapMessage,
    Message,
    Sub,
    Who,
    decode,
)
from lineside.bus.protocol.wire import frame
from lineside.bus.settings import Settings
from tests.bus.conftest import STREAM, record, records
from tests.bus.reading import seqs


class FakeBroker:
    """Plays the broker: receives from one reader, and sends the messages of the test."""

    def __init__(self, address: str) -> None:
        self.context: sockets.Context = zmq.Context()
        self.address_lock = AddressLock(address)
        self.socket = sockets.router(self.context, address)

    def receive(self) -> Message:
        assert self.socket.poll(5000)
        self.identity, *frames = self.socket.recv_multipart()
        return decode(frames)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.socket.send_multipart([self.identity, *message.encode()])

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.address_lock.release()


@pytest.fixture
def fake_broker(settings: Settings) -> Iterator[FakeBroker]:
    broker = FakeBroker(settings.broker)
    yield broker
    broker.close()


def subscribed_ack(name: str, offset: int = 0, journal: str = "j") -> Ack:
    return Ack(name, offset, OK, 9, journal)


def test_what_comes_twice_is_given_once(fake_broker: FakeBroker, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        assert reader.poll(0.2) is None
        assert fake_broker.receive() == Sub("", START, 0, (), 64)
        fake_broker.send(
            subscribed_ack(""),
            Evt(1, STREAM, 0, 3, records(0, 3)),
            GapMessage(None, 2, 4, 3),
            Evt(4, STREAM, 3, 2, records(3, 5)),
            GapMessage(STREAM, 5, 7, 5),
            # A second answer, as after two subscriptions that crossed.
            subscribed_ack(""),
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


def test_a_jump_between_deliveries_is_a_gap(fake_broker: FakeBroker, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake_broker.receive()
        fake_broker.send(
            subscribed_ack(""),
            Evt(1, STREAM, 5, 1, record(5)),  # the beginning of a stream is no gap
            Evt(2, STREAM, 9, 1, record(9)),
        )
        batches = [reader.poll(5), reader.poll(5)]
    assert [batch and batch.gaps for batch in batches] == [(), (Gap(STREAM, 6, 9),)]


def test_what_comes_before_the_answer_to_a_subscription_is_not_taken(
    fake_broker: FakeBroker, settings: Settings
) -> None:
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake_broker.receive()
        fake_broker.send(
            Evt(1, STREAM, 0, 1, record(0)),
            GapMessage(STREAM, 1, 2, 2),
            subscribed_ack(""),
            Evt(2, STREAM, 1, 1, record(1)),
        )
        batch = reader.poll(5)
    assert batch is not None
    assert seqs([batch]) == [1]


def test_a_reader_that_is_not_known_subscribes_behind_what_it_was_given(
    fake_broker: FakeBroker, settings: Settings
) -> None:
    with Reader(settings.broker, name="r") as reader:
        reader.poll(0.2)
        first = fake_broker.receive()
        assert isinstance(first, Sub)
        assert first == Sub("r", CURSOR, 0, (), 64, first.reader, 1)
        assert first.reader
        fake_broker.send(subscribed_ack("r", 6), Evt(7, STREAM, 0, 1, record(0)))
        assert reader.poll(5) is not None
        fake_broker.send(Who())
        assert reader.poll(0.2) is None
        assert fake_broker.receive() == Sub("r", OFFSET, 7, (), 64, first.reader, 2)


def test_a_reader_sends_its_cursor_every_second_and_learns_the_head(
    fake_broker: FakeBroker, settings: Settings
) -> None:
    with Reader(settings.broker, name="r") as reader:
        reader.poll(0.2)
        fake_broker.receive()
        fake_broker.send(subscribed_ack("r"), Evt(7, STREAM, 0, 1, record(0)))
        assert reader.poll(5) is not None
        assert reader.head == 9
        reader.commit(7)
        assert fake_broker.receive() == Cur(7, 1)
        fake_broker.send(Ack("r", 7, OK, 12))
        assert reader.poll(1.2) is None
        assert reader.head == 12
        assert fake_broker.receive() == Cur(7, 0)


def test_credit_goes_back_before_it_runs_out(fake_broker: FakeBroker, settings: Settings) -> None:
    with Reader(settings.broker, start=START, credit=4) as reader:
        reader.poll(0.2)
        fake_broker.receive()
        fake_broker.send(
            subscribed_ack(""), *(Evt(o, STREAM, o, 1, record(o)) for o in range(1, 5))
        )
        for _ in range(4):
            assert reader.poll(5) is not None
        assert fake_broker.receive() == Cur(0, 2)


def test_a_subscription_without_an_answer_is_sent_again_only_if_the_broker_asks(
    fake_broker: FakeBroker, settings: Settings
) -> None:
    with Reader(settings.broker, start=START) as reader:
        assert reader.poll(1.5) is None
        assert fake_broker.receive() == Sub("", START, 0, (), 64)
        assert fake_broker.receive() == Cur(0, 0)
        fake_broker.send(Who())
        assert reader.poll(0.2) is None
        assert fake_broker.receive() == Sub("", START, 0, (), 64)
        fake_broker.send(Who())  # sent before the broker received that
        assert reader.poll(0.2) is None
        assert fake_broker.socket.poll(0) == 0


def test_words_that_are_none_are_passed_over(fake_broker: FakeBroker, settings: Settings) -> None:
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake_broker.receive()
        fake_broker.send(subscribed_ack(""))
        fake_broker.socket.send_multipart([fake_broker.identity, b"NO", b"\xff"])
        fake_broker.socket.send_multipart([fake_broker.identity, b"EVT", b"short"])
        fake_broker.send(Cur(1, 1), Evt(1, STREAM, 0, 1, record(0)))
        batch = reader.poll(5)
    assert batch is not None
    assert seqs([batch]) == [0]


def test_an_event_that_cannot_be_decoded_is_delivered_with_the_reason(
    fake_broker: FakeBroker, settings: Settings
) -> None:
    head = b"".join(map(msgpack.packb, (1, 1, 1.5, 7, "log", 3, 0.5, 0)))
    deep = frame(b"\x99" + head + b"\x81\xa1x" * 600 + b"\xc0")
    with Reader(settings.broker, start=START) as reader:
        reader.poll(0.2)
        fake_broker.receive()
        blob = record(0) + deep + frame(b"\xc1") + record(3)
        fake_broker.send(subscribed_ack(""), Evt(1, STREAM, 0, 4, blob))
        batch = reader.poll(5)
    assert batch is not None
    assert batch.gaps == ()
    assert [(event.seq, event.kind) for event in batch.events] == [
        (0, "log"),
        (1, UNREADABLE),
        (2, UNREADABLE),
        (3, "log"),
    ]
    assert "nested more than 100 deep" in (batch.events[1].data or {})["why"]
