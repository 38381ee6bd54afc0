"""What is old expires while the broker serves, and trouble with it stops nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from lineside.bus.broker import service as broker_module
from lineside.bus.broker.storage.journal import Cursor, Write
from lineside.bus.client.reader import Reader
from lineside.bus.errors import JournalDamaged, JournalFull
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.messages import FULL, OK, START, Ack, Hi, Put
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer, read_all
from tests.bus.conftest import STREAM, Connect, StartBroker, fail_with, record
from tests.support.waiting import wait_until


def test_old_entries_expire_while_it_serves_and_a_late_reader_gets_a_gap(
    start_broker: StartBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    broker_thread = start_broker(keep_bytes=1 << 20)
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(300):
            producer.emit("log", data={"x": "y" * 20_000})
            producer.flush()
    wait_until(lambda: broker_thread.broker._journal.first > 240)
    with Reader(settings.broker, start=START) as reader:
        wanted, batch = 1, None
        while batch is None or not batch.events:  # entries that expire meanwhile come as gaps
            batch = reader.poll(5)
            assert batch is not None
            for gap in batch.gaps:
                assert (gap.stream, gap.first) == (None, wanted)
                wanted = gap.end
        assert batch.offset == wanted > 240

    def is_reported(events: list[Event]) -> bool:
        return any(event.data is not None and event.data["end"] >= wanted for event in events)

    expired = read_all(settings.broker, ["_bus"], until=is_reported)
    assert {event.kind for event in expired} == {"expired"}


def test_damage_among_what_is_old_stops_expiry_and_nothing_else(
    start_broker: StartBroker,
    peer: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    broker_thread = start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    with monkeypatch.context() as patch:
        patch.setattr(
            broker_thread.broker._maintenance, "maintain", fail_with(JournalDamaged("old"))
        )
        wait_until(lambda: "expiry is disabled: old" in caplog.text)
    assert producer.request(Put(STREAM, 0, 1, record(0))) == Ack(str(STREAM), 1, OK, 1)


def test_damage_found_while_expiring_stops_expiry_and_nothing_else(
    start_broker: StartBroker,
    peer: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    broker_thread = start_broker()
    producer = peer()
    producer.request(Hi(STREAM))
    broker = broker_thread.broker
    append = broker._journal.append

    def fail(
        writes: Sequence[Write],
        cursors: Mapping[str, Cursor],
        before: int,
        owners: Mapping[str, str],
    ) -> int:
        if before:
            raise JournalDamaged("old")
        return append(writes, cursors, before, owners)

    monkeypatch.setattr(broker._journal, "append", fail)
    producer.request(Put(STREAM, 0, 1, record(0)))
    monkeypatch.setattr(broker._maintenance._retention, "_keep_seconds", -1.0)
    producer.request(Put(STREAM, 1, 1, record(1)))
    wait_until(lambda: "expiry is disabled: old" in caplog.text)
    producer.send(Put(STREAM, 2, 1, record(2)))
    answer = producer.receive()
    while answer != Ack(str(STREAM), 3, OK, 3):
        assert isinstance(answer, Ack)
        assert answer.status == FULL
        answer = producer.request(Put(STREAM, 2, 1, record(2)))


def test_housekeeping_that_fails_is_tried_again(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    broker_thread = start_broker()
    housekeeping = broker_thread.broker._maintenance
    with monkeypatch.context() as patch:
        patch.setattr(housekeeping, "maintain", fail_with(JournalFull("full")))
        wait_until(lambda: "maintenance has to wait: full" in caplog.text)
    broker_thread.stop()
    assert broker_thread.error is None
