"""No peer stops another: what a hostile one costs the broker, beside a producer that behaves."""

from __future__ import annotations

import contextlib
import socket as plain
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import MAX_PATTERNS, START, Ack, Cur, Evt, Hi, Sub
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from tests.bus.broker.healthy_producer import HealthyProducer, busy_seconds
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker, is_accepted
from tests.bus.conftest import STREAM, Connect, RawClient, StartBroker, record
from tests.bus.reading import collect
from tests.support.waiting import DEADLINE, wait_until


@contextlib.contextmanager
def connections(broker: BrokerProcess, count: int) -> Iterator[list[RawClient]]:
    with contextlib.ExitStack() as opened:
        clients = [RawClient(broker.address) for _ in range(count)]
        for client in clients:
            opened.callback(client.close)
        yield clients


class Limited(subprocess.Popen[bytes]):
    """A process that may open 64 files."""

    def __init__(self, command: list[str], **options: Any) -> None:
        super().__init__(["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command], **options)


def await_processed(reader: RawClient, offset: int) -> None:
    """Wait until the broker has no entry up to ``offset`` for the reader."""

    def has_all() -> bool:
        answer = reader.request(Cur(offset, 0))
        assert isinstance(answer, Ack)
        return answer.next >= offset

    wait_until(has_all)


def test_a_flood_of_malformed_messages_delays_no_producer(broker: BrokerProcess) -> None:
    with HealthyProducer(broker) as healthy:
        hostile = RawClient(broker.address)
        for _ in range(5_000):
            hostile.socket.send_multipart([b"PUT", b"no stream", b"x" * 1000])
            while hostile.socket.poll(0, zmq.POLLIN):
                hostile.socket.recv_multipart()
        hostile.close()
    healthy.assert_unharmed()


def test_readers_that_catch_up_among_many_streams_delay_no_producer(home: Path) -> None:
    runs = [f"run{number}" for number in range(30_000)]
    with contextlib.closing(SqliteJournal(home / "journal.db")) as journal:
        journal.append([Write(Stream(run, "rank0", "a"), 0, 1, record(0)) for run in runs], {})
    with BrokerProcess(home) as broker:
        with HealthyProducer(broker) as healthy, connections(broker, 60) as readers:
            wanted = [(run,) for run in runs[::600]] + [("*/rank0",), ("*/none",)] * 5
            for reader, patterns in zip(readers, wanted, strict=True):
                reader.send(Sub("", START, 0, patterns, 64))
            for reader, patterns in zip(readers, wanted, strict=True):
                answer = reader.receive(DEADLINE)
                assert isinstance(answer, Ack)
                if patterns == ("*/none",):
                    await_processed(reader, answer.head)
                else:
                    for _ in range(1 if patterns[0] in runs else 64):
                        assert isinstance(reader.receive(DEADLINE), Evt)
        healthy.assert_unharmed()


def test_readers_that_receive_nothing_cost_little_memory(home: Path) -> None:
    with contextlib.closing(SqliteJournal(home / "journal.db")) as journal:
        for seq in range(200):
            journal.append([Write(STREAM, seq, 1, record(seq, {"x": "y" * 250_000}))], {})
    with BrokerProcess(home) as broker:
        with HealthyProducer(broker) as healthy, connections(broker, 6) as readers:
            for reader in readers:
                reader.send(Sub("", START, 0, (), 4096))
            # Another one goes on, and gets more than one credit at a time.
            with Reader(broker.address, start=START, credit=8) as other:
                assert len(collect(other, 200, timeout=DEADLINE)) == 200
        healthy.assert_unharmed()


def test_long_pattern_lists_are_bounded_and_end_with_their_connection(
    broker: BrokerProcess,
) -> None:
    patterns = tuple(f"{number:0128}/control" for number in range(MAX_PATTERNS))
    longest = Sub("", START, 0, patterns, 4096)
    too_long = Sub("", START, 0, ("a",) * 500_000, 4096)
    with HealthyProducer(broker) as healthy:
        for _ in range(100):
            with connections(broker, 1) as [client]:
                assert isinstance(client.request(longest), Ack)
        with connections(broker, 1) as [client]:
            answer = client.request(too_long)
            assert isinstance(answer, Ack)
            assert "at most 4096 patterns" in answer.text
    healthy.assert_unharmed()


def test_strangers_leave_room_for_clients_of_the_machine_and_the_broker_does_not_spin(
    home: Path, secured: SecuredBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secured.key("trainer", "emit")
    monkeypatch.setattr(BrokerProcess, "popen", Limited)
    with BrokerProcess(home, "--listen", LISTEN) as broker, contextlib.ExitStack() as strangers:
        host, port = secured.wait().removeprefix("tcp://").split(":")
        with HealthyProducer(broker) as healthy:
            with Producer(secured.address(key), "early/rank0/a") as early:
                early.emit("log")
                early.flush(DEADLINE)
                for number in range(147):
                    stranger = strangers.enter_context(plain.socket())
                    stranger.setblocking(False)
                    stranger.connect_ex((host, int(port)))
                    if number % 2:
                        with contextlib.suppress(OSError):  # not connected
                            stranger.send(bytes([0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F]))
                    time.sleep(0.005)
                early.emit("log")
                early.flush(DEADLINE)
            busy = busy_seconds(broker.pid)
            time.sleep(1)
            assert busy_seconds(broker.pid) - busy < 0.5, "less than half of a core"
            with Producer(broker.address, "local/rank0/a") as local:
                local.emit("log")
                local.flush(DEADLINE)
            strangers.close()
            with Producer(secured.address(key), "late/rank0/a") as late:
                late.emit("log")
                late.flush(DEADLINE)
        healthy.assert_unharmed()


def test_more_connections_than_the_broker_may_hold_have_to_wait(
    start_broker: StartBroker, settings: Settings, peer: Connect
) -> None:
    monitor = start_broker().broker._monitor
    monitor._max = 10
    path = settings.broker.removeprefix("ipc://")
    first = peer()
    with contextlib.ExitStack() as opened:

        def connect() -> bool:
            stranger = opened.enter_context(plain.socket(plain.AF_UNIX))
            time.sleep(0.01)
            return stranger.connect_ex(path) != 0

        wait_until(connect, "there is no socket to connect to")
        assert 10 <= len(monitor._is_network) < 100
        assert is_accepted(first.request(Hi(STREAM))), "a connection that is open stays"
    assert is_accepted(peer().request(Hi(STREAM)))
