"""The connection and the send window against a broker that misbehaves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import zmq

from lineside.bus import sockets
from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Ack, Cur, Hi, Put, Who, decode
from lineside.emitter.shipper import send_window as send_window_module
from lineside.emitter.shipper.broker_connection import BrokerConnection, Incoming
from lineside.emitter.shipper.send_window import WINDOW_BYTES, WINDOW_MESSAGES, SendWindow
from lineside.emitter.shipper.stream_registry import StreamRegistry
from lineside.emitter.spool.writer import SpoolWriter
from tests.emitter.shipping import Bench
from tests.support.waiting import wait_until

STREAM = Stream("run", "rank0", "a1")


class Peer:
    """A scripted broker: it answers only what a test sends."""

    def __init__(self, address: str) -> None:
        self._context: sockets.Context = zmq.Context()
        self._claim = AddressLock(address)
        self._socket = sockets.router(self._context, address)
        self._identity = b""

    def receive(self, seconds: float = 5.0) -> object | None:
        if not self._socket.poll(int(seconds * 1000)):
            return None
        self._identity, *frames = self._socket.recv_multipart()
        return decode(frames)

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart([self._identity, *frames])

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._claim.release()


@pytest.fixture
def peer(bench: Bench) -> Iterator[Peer]:
    peer = Peer(bench.address)
    yield peer
    peer.close()


@pytest.fixture
def broker_connection(bench: Bench) -> Iterator[BrokerConnection]:
    broker_connection = BrokerConnection(bench.address)
    yield broker_connection
    broker_connection.close()


def test_nothing_is_sent_while_there_is_no_connection(broker_connection: BrokerConnection) -> None:
    assert not broker_connection.send(Hi(STREAM))
    assert not broker_connection.has_answered
    assert broker_connection.receive(0.01) == []


def test_answers_are_received_and_invalid_messages_skipped(
    broker_connection: BrokerConnection, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until(lambda: broker_connection.send(Hi(STREAM)))
    assert peer.receive() == Hi(STREAM)
    peer.send(b"NONSENSE")
    peer.send(*Cur(1, 1).encode())
    peer.send(*Ack(str(STREAM), 3).encode())
    peer.send(*Who(str(STREAM)).encode())
    received: list[Incoming] = []
    while len(received) < 2:
        received += broker_connection.receive(5.0)
    assert received == [Ack(str(STREAM), 3), Who(str(STREAM))]
    assert "invalid message" in caplog.text
    assert broker_connection.has_answered


def test_a_connection_that_ends_is_noticed_at_once(
    broker_connection: BrokerConnection, bench: Bench
) -> None:
    peer = Peer(bench.address)
    wait_until(lambda: broker_connection.send(Hi(STREAM)))
    peer.receive()
    peer.close()
    started = time.monotonic()
    wait_until(lambda: broker_connection.receive(0.1) or broker_connection.disconnects)
    assert time.monotonic() - started < 2
    assert not broker_connection.send(Hi(STREAM))


def test_a_watched_descriptor_ends_the_wait_once(broker_connection: BrokerConnection) -> None:
    read, write = os.pipe()
    broker_connection.watch_fd(read)
    os.write(write, b"x")
    started = time.monotonic()
    broker_connection.receive(5.0)
    assert time.monotonic() - started < 2
    assert broker_connection.fd_ready
    started = time.monotonic()
    broker_connection.receive(0.2)
    assert time.monotonic() - started > 0.15
    broker_connection.unwatch_fd(read)
    os.close(read)
    os.close(write)


@pytest.fixture
def writer(bench: Bench) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(bench.spool, STREAM)
    yield writer
    writer.close()


@pytest.fixture
def send_window(
    bench: Bench, broker_connection: BrokerConnection, writer: SpoolWriter
) -> Iterator[SendWindow]:
    stream_registry = StreamRegistry(bench.spool, broker_connection)
    stream_registry.discover(0.0)
    yield SendWindow(broker_connection, stream_registry)
    stream_registry.close()


def drive(send_window: SendWindow, peer: Peer, *, answer: int | None = 0) -> list[object]:
    """Run both sides until nothing new arrives; the messages that the peer received."""
    received_messages = []
    quiet = 0
    # The writer is of this process, which cannot see its own locks: the stream seems to have ended.
    send_window._stream_registry.discover(time.monotonic())
    while quiet < 15:
        send_window.send(time.monotonic())
        send_window.receive(0.02)
        message = peer.receive(0.02)
        quiet = 0 if message else quiet + 1
        if message is not None:
            received_messages.append(message)
        if isinstance(message, Hi) and answer is not None:
            peer.send(*Ack(str(message.stream), answer).encode())
    return received_messages


def test_no_more_messages_are_sent_than_the_window_takes(
    send_window: SendWindow, peer: Peer, writer: SpoolWriter
) -> None:
    for _ in range(300 * WINDOW_MESSAGES):
        writer.write("log")
    received_messages = drive(send_window, peer)
    puts = [message for message in received_messages if isinstance(message, Put)]
    assert len(puts) == WINDOW_MESSAGES
    assert send_window.is_full
    assert send_window.outstanding


def test_no_more_bytes_are_sent_than_the_window_takes(
    send_window: SendWindow, peer: Peer, writer: SpoolWriter
) -> None:
    for _ in range(600):
        writer.write("log", data={"text": "x" * 16_000})
    puts = [message for message in drive(send_window, peer) if isinstance(message, Put)]
    sizes = [len(put.blob) for put in puts]
    assert WINDOW_BYTES <= sum(sizes) < WINDOW_BYTES + (1 << 20)


def test_answers_about_other_streams_are_ignored(send_window: SendWindow, peer: Peer) -> None:
    drive(send_window, peer, answer=None)
    for name in ("other/rank0/a1", "nonsense", ""):
        peer.send(*Ack(name, 5).encode())
        peer.send(*Who(name).encode())
    drive(send_window, peer)


def test_a_broker_that_forgot_the_stream_gets_a_new_hi(
    send_window: SendWindow, peer: Peer, writer: SpoolWriter
) -> None:
    writer.write("log")
    drive(send_window, peer)
    peer.send(*Who(str(STREAM)).encode())
    received_messages = drive(send_window, peer)
    assert [type(message) for message in received_messages[:2]] == [Hi, Put]


def test_a_broker_that_owes_an_answer_gets_a_new_connection_and_everything_again(
    send_window: SendWindow,
    broker_connection: BrokerConnection,
    peer: Peer,
    writer: SpoolWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer.write("log")
    first = drive(send_window, peer)
    monkeypatch.setattr(send_window_module, "SILENCE_SECONDS", 0.5)
    assert isinstance(first[-1], Put)
    before = broker_connection.disconnects
    while broker_connection.disconnects == before:
        send_window.receive(0.05)
    monkeypatch.setattr(send_window_module, "SILENCE_SECONDS", 60.0)
    received_messages = drive(send_window, peer)
    assert received_messages == [Hi(STREAM), first[-1]]


def test_the_folder_of_a_stream_is_named_after_it(bench: Bench, writer: SpoolWriter) -> None:
    assert writer.folder.path == bench.spool.joinpath(*STREAM)
