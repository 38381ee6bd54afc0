"""Many streams on one connection: delivered all, and refused each for itself."""

from __future__ import annotations

import pytest

from lineside.bus.client import producer as producer_module
from lineside.bus.client.producer import Producer, ProducerConnection
from lineside.bus.client.producer_pool import _MAX_PRODUCERS, ProducerPool
from lineside.bus.errors import BrokerUnreachable, BusError
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from tests.bus.conftest import StartBroker


def test_one_connection_carries_the_streams_of_many_runs(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker = start_broker()
    runs = [f"run{number}" for number in range(2 * _MAX_PRODUCERS)]
    with ProducerPool(settings.broker) as pool:
        for run in runs:
            for value in range(3):
                pool.emit(run, "stopper", "alert", step=value, data={"value": value})
            pool.flush(run, "stopper", 10)
        assert len(broker.broker._connections) == 1
        assert len(pool._producers) == _MAX_PRODUCERS
        pool.emit(runs[0], "stopper", "alert", data={"value": 3})
        pool.flush(runs[0], "stopper", 10)
    for run in runs:
        values = [(event.data or {})["value"] for event in read_all(settings.broker, [run])]
        assert values == list(range(4 if run == runs[0] else 3))


def test_a_refused_stream_leaves_the_others_of_its_connection_alone(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_broker()
    monkeypatch.setattr(producer_module, "_SILENCE_SECONDS", 0.3)
    connection = ProducerConnection(settings.broker)
    refused = Producer(settings.broker, "_bus/broker/a", connection)
    accepted = Producer(settings.broker, "run/rank0/a", connection)
    refused.emit("log")
    for _ in range(20):
        accepted.emit("log")
        accepted.flush()
    with pytest.raises(BusError, match="is the broker's own"):
        refused.flush()
    accepted.emit("log")
    accepted.flush()
    assert accepted.acked == 21
    connection.close()


def test_a_pool_begins_another_stream_after_an_error(
    start_broker: StartBroker, settings: Settings
) -> None:
    with ProducerPool(settings.broker) as pool:
        pool.emit("run", "stopper", "alert", data={"value": 1})
        with pytest.raises(BrokerUnreachable):
            pool.flush("run", "stopper", 0.2)
        start_broker()
        pool.emit("run", "stopper", "alert", data={"value": 2})
        pool.flush("run", "stopper", 10)
    assert [event.data for event in read_all(settings.broker)] == [{"value": 2}]
