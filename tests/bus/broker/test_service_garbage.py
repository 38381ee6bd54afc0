"""What the broker cannot take is refused, and it serves on."""

from __future__ import annotations

import random
import socket as plain
from unittest.mock import ANY

import pytest
import zmq

from lineside.bus.protocol.messages import (
    DENIED,
    INVALID,
    MAX_BLOB,
    MAX_MESSAGE,
    OK,
    START,
    Ack,
    Cur,
    GapMessage,
    Hi,
    Put,
    Sub,
)
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from tests.bus.conftest import STREAM, Connect, StartBroker, record, records


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (Put(STREAM, 0, 2, records(0, 1)), "2 records announced, 1 found"),
        (Put(STREAM, 0, 1, records(0, 2)), "1 record announced, 2 found"),
        (Put(STREAM, 0, 0, b""), "0 records announced, 1 to 16384 may be"),
        (Put(STREAM, 0, 1, records(0, 1)[:-1]), "cut short"),
        (Put(STREAM, 0, 1, records(0, 1)[:-1] + b"\xff"), "checksum does not match"),
        (Put(STREAM, (1 << 63) - 1, 1, records(0, 1)), "pass the last seq"),
    ],
)
def test_an_invalid_blob_is_answered_as_invalid_and_nothing_kept(
    start_broker: StartBroker, peer: Connect, put: Put, why: str
) -> None:
    start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    answer = producer.request(put)
    assert isinstance(answer, Ack)
    assert (answer.key, answer.status, answer.next) == (str(STREAM), INVALID, 0)
    assert why in answer.text
    again = producer.request(Put(STREAM, 0, 1, record(0)))
    assert isinstance(again, Ack)
    assert (again.status, again.next) == (OK, 1)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"NO", b"x"],
        [b"PUT"],
        [b"PUT", b"no stream", b"1", b"1", b""],
        [b"HI", b"\xff\xff", b"\x80"],
        [b"HI", b"run/rank0/a", b"\xc1"],
        [b"SUB", b"", b"cursor", bytes(8), b"\x90", bytes(8)],
        [b"SUB", b"", b"start", bytes(8), b"\x91\xa7a/b/c/d", bytes(8)],
        [b"SUB", b"x" * 300, b"start", bytes(8), b"\x90", bytes(8)],
        [b"EVT", bytes(8), b"run/rank0/a", bytes(8), bytes(8), b""],
        [b"ACK", b"x", bytes(8), b"ok", bytes(8), b""],
    ],
)
def test_a_malformed_message_is_denied_and_the_next_one_served(
    start_broker: StartBroker, peer: Connect, frames: list[bytes]
) -> None:
    start_broker()
    connection = peer()
    connection.socket.send_multipart(frames)
    answer = connection.receive()
    assert isinstance(answer, Ack)
    assert (answer.key, answer.status) == ("", DENIED)
    assert answer.text
    assert connection.request(Hi(STREAM)) == Ack(str(STREAM), 0, OK, ANY, ANY)


def test_malformed_messages_are_reported_in_the_audit(
    start_broker: StartBroker, peer: Connect, settings: Settings
) -> None:
    start_broker()
    connection = peer()
    for _ in range(20):
        connection.socket.send_multipart([b"NO"])
        connection.receive()
    [event] = read_all(settings.broker, ["audit/broker"], until=bool)
    assert event.kind == "refused"
    assert event.data is not None
    assert (event.data["who"], event.data["action"]) == ("", "protocol")
    assert 0 < event.data["count"] <= 20
    assert "unknown verb" in event.data["why"]


def test_an_identity_of_the_peers_own_choice_is_refused(
    start_broker: StartBroker, settings: Settings
) -> None:
    start_broker()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.ROUTING_ID, b"me")
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(settings.broker)
        socket.send_multipart(Hi(STREAM).encode())
        assert socket.poll(5000)
        assert b"set no routing id" in socket.recv_multipart()[-1]


def test_garbage_leaves_the_broker_serving(broker: BrokerProcess) -> None:
    rng = random.Random(7)
    verbs = [b"HI", b"PUT", b"ACK", b"GAP", b"SUB", b"EVT", b"CUR", b"WHO", b"", b"\0" * 300]
    good = [
        Hi(STREAM).encode(),
        Put(STREAM, 0, 5, records(0, 5)).encode(),
        GapMessage(STREAM, 0, 5).encode(),
        Sub("name", START, 0, ("run",), 5).encode(),
        Cur(5, 5).encode(),
    ]
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(broker.address)
        for _ in range(3000):
            if rng.random() < 0.5:
                frames = list(rng.choice(good))
                at = rng.randrange(len(frames))
                frame = bytearray(frames[at])
                if frame:
                    frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
                frames[at] = bytes(frame[: rng.randrange(len(frame) + 1)])
                frames = frames[: rng.randrange(1, len(frames) + 1)]
            else:
                frames = [rng.choice(verbs)]
                frames += [rng.randbytes(rng.randrange(40)) for _ in range(rng.randrange(8))]
            socket.send_multipart(frames)
            while socket.poll(0):
                socket.recv_multipart()
        assert_serves(broker)


def test_a_frame_beyond_the_limit_cuts_only_its_own_connection(broker: BrokerProcess) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(broker.address)
        socket.send_multipart([b"PUT", bytes(MAX_MESSAGE + 1)])
        assert not socket.poll(300)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(broker.address)
        socket.send_multipart(Put(STREAM, 0, 1, bytes(MAX_BLOB + 1)).encode())
        assert socket.poll(5000)
        assert b"at most 1572864 are taken" in socket.recv_multipart()[-1]
    assert_serves(broker)


def test_bytes_that_are_not_zmtp_leave_the_broker_serving(broker: BrokerProcess) -> None:
    rng = random.Random(8)
    for _ in range(30):
        with plain.socket(plain.AF_UNIX) as connection:
            connection.connect(broker.address.removeprefix("ipc://"))
            connection.sendall(rng.randbytes(rng.randrange(1, 5000)))
    assert_serves(broker)


def assert_serves(broker: BrokerProcess) -> None:
    with Producer(broker.address, "check/rank0/a") as producer:
        for _ in range(100):
            producer.emit("log")
        producer.flush()
    events = read_all(broker.address, ["check"])
    assert [event.seq for event in events] == list(range(100))
