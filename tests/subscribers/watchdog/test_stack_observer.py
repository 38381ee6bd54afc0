"""What the watchdog sees of Lineside: a broker that ends, a recorder, a spool and readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import Stream
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.watchdog import stack_observer
from lineside.subscribers.watchdog.observation import StackObservation
from lineside.subscribers.watchdog.stack_observer import StackObserver
from tests.support.waiting import DEADLINE

STREAM = Stream("run", "rank0", "a1")


class Recorded:
    """A recorder that has recorded up to ``at``."""

    def __init__(self) -> None:
        self.at = 0

    def offset(self, _journal: str) -> int:
        return self.at


class Bench:
    """An observer whose clock is the test's, and a spool that the test fills."""

    def __init__(self, settings: Settings) -> None:
        self.now = time.time()
        self.recorded = Recorded()
        self.spool: dict[Stream, tuple[int, int]] = {}
        self.observer = StackObserver(settings, lambda: self.spool, lambda: self.now)

    def observe(self, after: float = 0.0) -> StackObservation:
        self.now += after
        return self.observer.observe(self.recorded)

    def until(self, condition: Callable[[StackObservation], Any]) -> StackObservation:
        deadline = time.monotonic() + DEADLINE
        while not condition(found := self.observe(0.1)):
            assert time.monotonic() < deadline, found
            self.observer.poll(0.1)
        return found


@pytest.fixture
def bench(settings: Settings, broker: BrokerProcess) -> Iterator[Bench]:
    made = Bench(settings)
    yield made
    made.observer.close()


def publish(broker: BrokerProcess, count: int = 1) -> None:
    with Producer(broker.address, str(STREAM)) as producer:
        for _ in range(count):
            producer.emit("log", data={"logs": {}})
            producer.flush(30)


def test_a_recorder_lags_for_as_long_as_its_oldest_entry_waits(
    bench: Bench, broker: BrokerProcess
) -> None:
    publish(broker)
    found = bench.until(lambda seen: seen.recorder_entries == 1)
    assert found.recorder_lag < DEADLINE, "the broker knows for how long it has waited"
    before = found.recorder_lag
    assert bench.observe(60).recorder_lag == pytest.approx(before + 60)
    bench.recorded.at = 1
    found = bench.observe()
    assert (found.recorder_entries, found.recorder_lag) == (0, 0.0)


def test_a_broker_that_ends_is_silent_and_the_recorder_is_then_not_judged(
    bench: Bench, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_observer, "BROKER_SILENCE_SECONDS", 2.5)
    publish(broker)
    bench.until(lambda seen: seen.broker_silence == 0 and seen.recorder_entries)
    broker.kill()
    found = bench.until(lambda seen: seen.broker_silence)
    assert found.broker_silence >= 2.5
    assert found.recorder_lag == 0.0
    broker.start()
    bench.until(lambda seen: not seen.broker_silence)


def test_events_in_the_spool_wait_until_one_of_their_stream_is_confirmed(bench: Bench) -> None:
    other = STREAM._replace(producer="rank1")
    bench.spool = {STREAM: (5, 3), other: (1, 1)}
    assert bench.observe().spool_waiting == 4
    bench.spool = {STREAM: (5, 9), other: (2, 1)}
    assert bench.observe(100).spool_silence == 100
    bench.spool = {STREAM: (6, 8), other: (9, 0)}
    found = bench.observe(100)
    assert (found.spool_silence, found.spool_waiting) == (0, 8)
    bench.spool = {STREAM: (14, 0)}
    assert bench.observe(100).spool_silence == 0


def test_a_durable_reader_lags_by_the_age_of_its_next_entry(
    bench: Bench, broker: BrokerProcess
) -> None:
    with Reader(broker.address, name="slow") as reader:
        reader.wait_connected(DEADLINE)
        publish(broker)
        [lag] = bench.until(lambda seen: seen.cursors).cursors
        assert lag.name == "slow"
        batch = reader.poll(DEADLINE)
        assert batch is not None
        reader.commit(batch.offset)
    bench.now += stack_observer.CURSOR_SECONDS
    bench.until(lambda seen: not seen.cursors)


def test_the_disks_of_home_spool_and_store_are_seen_once_each(bench: Bench) -> None:
    disks = bench.observe().disks
    assert disks
    assert sorted(name for disk in disks for name in disk.used_for.split(", ")) == [
        "home",
        "spool",
        "store",
    ]
    assert all(0 < (disk.available.last or 0) <= disk.size for disk in disks)
