"""Requests at intervals, which stop when the watchdog can judge nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lineside.subscribers.watchdog.notification.heartbeat import Heartbeat
from tests.support.http_receiver import HttpReceiver, http_receiver
from tests.support.waiting import wait_until


@contextmanager
def sending(receiver: HttpReceiver, **options: float) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(f"{receiver.url}/ping/secret", **{"interval": 0.05, **options})
    heartbeat.start()
    try:
        yield heartbeat
    finally:
        heartbeat.close(5)


def test_it_is_sent_at_intervals_while_the_watchdog_judges_runs() -> None:
    with http_receiver() as receiver, sending(receiver, interval=0.2) as heartbeat:
        time.sleep(0.3)
        assert not receiver.requests, "nothing is sent before the first judgement"
        begin = time.monotonic()
        heartbeat.beat()
        wait_until(lambda: len(receiver.requests) == 3)
        assert time.monotonic() - begin >= 0.4
        assert {(one.method, one.path) for one in receiver.requests} == {("GET", "/ping/secret")}


def test_silence_follows_a_watchdog_that_cannot_judge_and_ends_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with http_receiver() as receiver, sending(receiver, max_silence=0.3) as heartbeat:
        heartbeat.beat()
        wait_until(lambda: "no heartbeat is sent: the runs could not be judged" in caplog.text)
        count = len(receiver.requests)
        time.sleep(0.3)
        assert len(receiver.requests) == count
        heartbeat.beat()
        wait_until(lambda: len(receiver.requests) > count)
        assert "the heartbeat is sent again" in caplog.text


def test_a_monitor_that_fails_is_logged_once_without_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with http_receiver(500, 500, 404) as receiver, sending(receiver) as heartbeat:
        heartbeat.beat()
        wait_until(lambda: "arrives again" in caplog.text)
    assert caplog.text.count("the heartbeat does not arrive: the answer was 500") == 1
    assert "secret" not in caplog.text
