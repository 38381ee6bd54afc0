"""The connection to the broker, and what is sent over it when it misbehaves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from lineside.bus import sockets
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import Ack, Cur, Hi, Put, Who, decode
from lineside.emitter.shipper import exchange as exchanging
from lineside.emitter.shipper.charges import Charges
from lineside.emitter.shipper.exchange import WINDOW_BYTES, WINDOW_MESSAGES, Exchange
from lineside.emitter.shipper.link import Link, Said
from lineside.emitter.spool.spool import SpoolWriter
from tests.emitter.shipper.conftest import Bench, until

STREAM = Stream("run", "rank0", "a1")


class Peer:
    """A broker by hand: it answers what a test says and nothing else."""

    def __init__(self, address: str) -> None:
        self._context: sockets.Context = zmq.Context()
        self._claim = sockets.Claim(address)
        self._socket = sockets.router(self._context, self._claim)
        self._identity = b""

    def hear(self, seconds: float = 5.0) -> object | None:
        if not self._socket.poll(int(seconds * 1000)):
            return None
        self._identity, *frames = self._socket.recv_multipart()
        return decode(frames)

    def say(self, *frames: bytes) -> None:
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
def link(bench: Bench) -> Iterator[Link]:
    link = Link(bench.address)
    yield link
    link.close()


def test_nothing_is_sent_while_there_is_no_connection(link: Link) -> None:
    assert not link.send(Hi(STREAM))
    assert not link.answered
    assert link.receive(0.01) == []


def test_answers_are_heard_and_nonsense_is_passed_over(
    link: Link, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    until(lambda: link.send(Hi(STREAM)))
    assert peer.hear() == Hi(STREAM)
    peer.say(b"NONSENSE")
    peer.say(*Cur(1, 1).encode())
    peer.say(*Ack(str(STREAM), 3).encode())
    peer.say(*Who(str(STREAM)).encode())
    said: list[Said] = []
    while len(said) < 2:
        said += link.receive(5.0)
    assert said == [Ack(str(STREAM), 3), Who(str(STREAM))]
    assert "no message" in caplog.text
    assert link.answered


def test_a_connection_that_ends_is_noticed_at_once(link: Link, bench: Bench) -> None:
    peer = Peer(bench.address)
    until(lambda: link.send(Hi(STREAM)))
    peer.hear()
    peer.close()
    started = time.monotonic()
    until(lambda: link.receive(0.1) or link.losses)
    assert time.monotonic() - started < 2
    assert not link.send(Hi(STREAM))


def test_a_watched_descriptor_wakes_the_link_once(link: Link) -> None:
    read, write = os.pipe()
    link.watch(read)
    os.write(write, b"x")
    started = time.monotonic()
    link.receive(5.0)
    assert time.monotonic() - started < 2
    assert link.alarm
    started = time.monotonic()
    link.receive(0.2)
    assert time.monotonic() - started > 0.15
    link.unwatch(read)
    os.close(read)
    os.close(write)


@pytest.fixture
def writer(bench: Bench) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(bench.spool, STREAM)
    yield writer
    writer.close()


@pytest.fixture
def exchange(bench: Bench, link: Link, writer: SpoolWriter) -> Iterator[Exchange]:
    charges = Charges(bench.spool, link)
    charges.discover(0.0)
    yield Exchange(link, charges)
    charges.close()


def drive(exchange: Exchange, peer: Peer, *, answer: int | None = 0) -> list[object]:
    """Let both talk until nothing new comes; what the peer heard."""
    heard = []
    quiet = 0
    while quiet < 15:
        exchange.send(time.monotonic())
        exchange.hear(0.02)
        message = peer.hear(0.02)
        quiet = 0 if message else quiet + 1
        if message is not None:
            heard.append(message)
        if isinstance(message, Hi) and answer is not None:
            peer.say(*Ack(str(message.stream), answer).encode())
    return heard


def test_no_more_is_sent_than_the_window_takes(
    exchange: Exchange, peer: Peer, writer: SpoolWriter
) -> None:
    for _ in range(300 * WINDOW_MESSAGES):
        writer.write("log")
    heard = drive(exchange, peer)
    puts = [message for message in heard if isinstance(message, Put)]
    assert len(puts) == WINDOW_MESSAGES
    assert exchange.is_full
    assert exchange.outstanding


def test_no_more_bytes_are_on_their_way_than_the_window_takes(
    exchange: Exchange, peer: Peer, writer: SpoolWriter
) -> None:
    for _ in range(100):
        writer.write("log", data={"text": "x" * 100_000})
    puts = [message for message in drive(exchange, peer) if isinstance(message, Put)]
    sizes = [len(put.blob) for put in puts]
    assert WINDOW_BYTES <= sum(sizes) < WINDOW_BYTES + (1 << 20)


def test_answers_about_streams_that_are_not_ours_are_passed_over(
    exchange: Exchange, peer: Peer
) -> None:
    drive(exchange, peer, answer=None)
    for name in ("other/rank0/a1", "nonsense", ""):
        peer.say(*Ack(name, 5).encode())
        peer.say(*Who(name).encode())
    drive(exchange, peer)


def test_a_broker_that_forgot_us_is_greeted_again(
    exchange: Exchange, peer: Peer, writer: SpoolWriter
) -> None:
    writer.write("log")
    drive(exchange, peer)
    peer.say(*Who(str(STREAM)).encode())
    heard = drive(exchange, peer)
    assert [type(message) for message in heard[:2]] == [Hi, Put]


def test_a_broker_that_owes_an_answer_gets_a_new_connection_and_everything_again(
    exchange: Exchange, link: Link, peer: Peer, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write("log")
    first = drive(exchange, peer)
    monkeypatch.setattr(exchanging, "SILENCE_SECONDS", 0.5)
    assert isinstance(first[-1], Put)
    before = link.losses
    while link.losses == before:
        exchange.hear(0.05)
    monkeypatch.setattr(exchanging, "SILENCE_SECONDS", 60.0)
    heard = drive(exchange, peer)
    assert heard == [Hi(STREAM), first[-1]]


def test_the_folders_are_what_the_stream_names_say(bench: Bench, writer: SpoolWriter) -> None:
    assert writer.folder.path == Path(bench.spool).joinpath(*STREAM)
