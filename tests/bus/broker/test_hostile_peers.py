"""No peer stops another: what a hostile one costs the broker, beside a producer that behaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import zmq

from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import START, Ack, Cur, Evt, Sub
from lineside.bus.testing import BrokerProcess
from tests.bus.broker.healthy_producer import HealthyProducer
from tests.bus.conftest import RawClient, record
from tests.support.waiting import DEADLINE, wait_until


@contextlib.contextmanager
def connections(broker: BrokerProcess, count: int) -> Iterator[list[RawClient]]:
    with contextlib.ExitStack() as opened:
        clients = [RawClient(broker.address) for _ in range(count)]
        for client in clients:
            opened.callback(client.close)
        yield clients


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
