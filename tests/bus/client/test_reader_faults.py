"""A reader goes on over brokers and connections that fail."""

from __future__ import annotations

import time
from threading import Event
from typing import Any

import pytest

from lineside.bus.client import reader as reader_module
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.messages import START
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, FaultyProxy, Producer
from tests.bus.conftest import STREAM, StartBroker
from tests.bus.reading import collect, seqs
from tests.faults.session import repeats
from tests.support.waiting import DEADLINE


@pytest.mark.fault
def test_a_reader_goes_on_over_kills_of_the_broker(broker: BrokerProcess) -> None:
    with (
        Producer(broker.address, STREAM) as producer,
        Reader(broker.address, name="durable") as reader,
    ):
        got: list[int] = []
        for round_ in repeats(5):
            for _ in range(100):
                producer.emit("log")
            producer.flush(timeout=DEADLINE)
            got += seqs(collect(reader, 100, timeout=DEADLINE))
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


def test_a_durable_reader_is_not_ended_by_its_own_earlier_connections(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(reader_module, "CUR_SECONDS", 0.1)
    journal = start_broker().broker._journal
    append, disk_works = journal.append, Event()

    def append_when_the_disk_works(*args: Any) -> int:
        assert disk_works.wait(DEADLINE)
        return append(*args)

    with (
        Producer(settings.broker, STREAM) as producer,
        Reader(settings.broker, name="durable") as reader,
    ):
        reader.wait_connected(DEADLINE)
        monkeypatch.setattr(journal, "append", append_when_the_disk_works)
        producer.emit("log")
        until = time.monotonic() + 2
        while time.monotonic() < until:
            producer.poll(0)
            assert reader.poll(0.1) is None
        disk_works.set()
        producer.flush(DEADLINE)
        got = seqs(collect(reader, 1, timeout=DEADLINE))
        for _ in range(10):
            producer.emit("log")
            producer.flush(DEADLINE)
            got += seqs(collect(reader, 1, timeout=DEADLINE))
        assert got == list(range(11))


@pytest.mark.fault
@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_reader_goes_on_over_a_broken_connection(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(reader_module, "SILENCE_SECONDS", 1.0)
    with (
        FaultyProxy(broker.home / "link", broker.address) as link,
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
        link.restore()
        got += seqs(collect(reader, 100))
        assert got == list(range(200))
