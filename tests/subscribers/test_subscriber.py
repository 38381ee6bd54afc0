"""What a subscriber gets called with, and what does not stop it."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.bus.service import Service
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.subscriber import Subscriber
from tests.support.waiting import wait_until

STREAM = "run/rank0/20261121T000000-0000"


class LogSubscriber(Subscriber):
    name = "follower"
    streams: ClassVar[tuple[str, ...]] = ("run",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.received: list[tuple[Stream, int]] = []
        self.evaluated = 0

    def on_log(self, stream: Stream, event: Event) -> None:
        self.received.append((stream, event.seq))
        if event.step == 1:
            raise ZeroDivisionError("a handler with a bug")

    def on_evaluate(self, stream: Stream, event: Event) -> None:
        self.evaluated += 1


def run_until_received(subscriber: LogSubscriber, count: int) -> None:
    def turn_and_check() -> bool:
        subscriber.run_once()
        return len(subscriber.received) >= count

    subscriber.startup()
    try:
        wait_until(turn_and_check, "all is seen")
    finally:
        subscriber.shutdown()


def test_events_come_by_kind_and_a_failing_handler_does_not_stop_the_loop(
    settings: Settings, broker: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with Producer(broker.address, STREAM) as producer:
        for step in range(3):
            producer.emit("log", step=step)
            producer.emit("step_end", step=step)
        producer.flush()
    subscriber = LogSubscriber(settings)
    run_until_received(subscriber, 3)
    stream = Stream.parse(STREAM)
    assert subscriber.received == [(stream, 0), (stream, 2), (stream, 4)]
    assert "follower: log of run/rank0/20261121T000000-0000, seq 2" in caplog.text
    assert "a handler with a bug" in caplog.text


def test_a_subscriber_goes_on_where_it_was(settings: Settings, broker: BrokerProcess) -> None:
    with Producer(broker.address, STREAM) as producer:
        producer.emit("log")
        producer.flush()
        first = LogSubscriber(settings)
        run_until_received(first, 1)
        producer.emit("log")
        producer.flush()
    second = LogSubscriber(settings)
    run_until_received(second, 1)
    assert [seq for _, seq in second.received] == [1]


def test_only_the_streams_asked_for_come(settings: Settings, broker: BrokerProcess) -> None:
    for name in ("other/rank0/a", STREAM):
        with Producer(broker.address, name) as producer:
            producer.emit("log")
            producer.flush()
    subscriber = LogSubscriber(settings)
    run_until_received(subscriber, 1)
    assert [stream.run for stream, _ in subscriber.received] == ["run"]


def test_what_is_missing_is_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    subscriber = LogSubscriber(settings)
    stream = Stream.parse(STREAM)
    with caplog.at_level(logging.WARNING):
        subscriber.handle(Batch(1, stream, (), (Gap(stream, 0, 5),)))
        subscriber.handle(Batch(9, None, (), (Gap(None, 2, 9),)))
    assert "follower: 5 events of run/rank0/20261121T000000-0000 cannot be had" in caplog.text
    assert "follower: 7 journal entries cannot be had" in caplog.text


def test_a_subscriber_that_never_started_shuts_down_quietly(settings: Settings) -> None:
    subscriber = LogSubscriber(settings)
    subscriber.shutdown()
    assert isinstance(subscriber, Service)
