"""Many streams on one connection: delivered all, and refused each for itself."""

from __future__ import annotations

import pytest

from lineside.bus.client import producer as producer_module
from lineside.bus.client.producer import Producer, ProducerConnection
from lineside.bus.client.producer_pool import _MAX_PRODUCERS, ProducerPool
from lineside.bus.errors import BrokerUnreachable, BusError
from lineside.bus.protocol.messages import DENIED, Ack, Frames, Put, decode
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


def test_events_not_acknowledged_survive_a_restart_of_the_broker_in_every_stream(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "_SILENCE_SECONDS", 0.3)
    broker = start_broker()
    connection = ProducerConnection(settings.broker)
    runs = [f"run{number}" for number in range(20)]
    producers = [Producer(settings.broker, f"{run}/rank0/a", connection) for run in runs]

    def emit(first: int, end: int) -> None:
        for producer in producers:
            for step in range(first, end):
                producer.emit("log", step=step)

    emit(0, 1)
    for producer in producers:
        producer.flush()
    broker.stop()
    emit(1, 300)
    with pytest.raises(BrokerUnreachable):
        producers[3].flush(0.5)
    broker = start_broker()
    for producer in reversed(producers):
        producer.flush()
    broker.stop()
    start_broker()
    emit(300, 301)
    for producer in producers:
        producer.flush()
    connection.close()
    for run in runs:
        steps = [event.step for event in read_all(settings.broker, [run])]
        assert steps == list(range(301))


def test_a_journal_made_anew_gets_every_event_that_was_not_acknowledged(
    start_broker: StartBroker, settings: Settings
) -> None:
    broker = start_broker()
    with Producer(settings.broker, "run/rank0/a") as producer:
        for step in range(10):
            producer.emit("log", step=step)
        producer.flush()
        producer.drop_acked()
        broker.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        for step in range(10, 30):
            producer.emit("log", step=step)
        start_broker()
        while producer.acked >= 10:
            producer.poll(0.1)
        producer.drop_acked()
        producer.flush()
    assert [event.step for event in read_all(settings.broker)] == list(range(10, 30))


def test_an_older_refusal_does_not_refuse_a_later_event(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "_DENIED_RETRY_SECONDS", 0.1)
    start_broker()
    connection = ProducerConnection(settings.broker)
    idle = Producer(settings.broker, "run/rank0/a", connection)
    idle.emit("log")
    idle.flush()
    # As when the connection was replaced while the key had no right to this stream.
    idle.acknowledge(Ack(str(idle.stream), 0, DENIED, 0, "not now"))
    idle.emit("log")
    idle.flush()
    assert idle.acked == 2
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


def test_the_streams_of_one_connection_share_one_window_of_bytes(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_broker()
    connection = ProducerConnection(settings.broker)
    producers = [Producer(settings.broker, f"run{n}/rank0/a", connection) for n in range(20)]
    for producer in producers:
        producer.emit("log")
        producer.flush()
    for producer in producers:
        for _ in range(10):
            producer.emit("log", data={"text": "x" * (200 << 10)})
    sent: list[Frames] = []

    def send(frames: Frames) -> bool:
        sent.append(frames)  # and no answer comes
        return True

    monkeypatch.setattr(connection._connection, "send", send)
    for _ in range(3):
        connection.poll(0)
    puts = [put for put in map(decode, sent) if isinstance(put, Put)]
    size = sum(len(put.blob) for put in puts)
    window = producer_module._WINDOW_BYTES
    # Each may have one PUT under way, or one that waits for another's answer would wait for ever.
    assert window <= size < window + len(producers) * (300 << 10)
    assert {put.stream for put in puts} == {p.stream for p in producers}
    connection.close()
