"""Delays that a subscriber chooses, what it gives up, and what is still to be done."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from typing import Any, ClassVar

import pytest

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.subscribers import LogEvent, RetryLater, RunContext, Subscriber
from lineside.subscribers.backoff import Backoff
from lineside.subscribers.testing import deliver, synthetic_run
from tests.subscribers.kit import ServedKit, published, train
from tests.support.waiting import wait_until

CALLS: list[Any] = []


@pytest.fixture(autouse=True)
def clear_calls() -> None:
    CALLS.clear()


class Asked(Subscriber):
    name = "asked"
    retry_seconds: ClassVar[tuple[float, float]] = (100.0, 100.0)

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        CALLS.append(time.monotonic())
        if len(CALLS) == 1:
            raise RetryLater("429 Too Many Requests", 0.3)


def test_an_event_is_tried_again_after_the_delay_that_its_handler_asks_for(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(1))
    with ServedKit(settings, Asked, on_error="skip"):
        wait_until(lambda: len(CALLS) == 2, "the second try")
    assert CALLS[1] - CALLS[0] >= 0.3
    assert not published(settings, "run", "subscriber_error")


class AskedForLong(Subscriber):
    name = "asked-for-long"
    ticks: ClassVar[int] = 0

    def tick(self, run: RunContext, now: float) -> None:
        CALLS.append("tick")
        if len(CALLS) == 1:
            raise RetryLater("503 Service Unavailable", 3600)

    def on_log(self, run: RunContext, event: LogEvent) -> None: ...


def test_a_long_delay_is_on_the_page_at_once(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service._TICK_SECONDS", 0.05)
    train(broker.address, "run", range(3))
    with ServedKit(settings, AskedForLong):
        wait_until(lambda: bool(published(settings, "run", "subscriber_error")), "a report")
    assert CALLS == ["tick"]
    [report] = published(settings, "run", "subscriber_error")
    assert report.data is not None
    assert (report.data["action"], report.data["method"]) == ("retrying", "tick")
    assert report.data["error"]["message"] == "503 Service Unavailable"
    with ServedKit(settings, AskedForLong):  # another process tries at once
        train(broker.address, "run", range(3), "20261122T000000-0000")
        wait_until(lambda: len(published(settings, "run", "subscriber_error")) == 2, "recovery")
    assert published(settings, "run", "subscriber_error")[1].data["action"] == "recovered"  # type: ignore[index]


class Owes(Subscriber):
    name = "owes"

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        run.open_state()["debts"] = event.step
        run.stays = True

    def tick(self, run: RunContext, now: float) -> None:
        CALLS.append(run.open_state().get("debts"))


def test_a_run_with_something_still_to_do_is_in_memory_after_a_restart(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service._TICK_SECONDS", 0.05)
    monkeypatch.setattr("lineside.subscribers.service._IDLE_RUN_SECONDS", 0.1)
    train(broker.address, "run", range(3))
    with ServedKit(settings, Owes):
        wait_until(lambda: 2 in CALLS, "all logs")
    CALLS.clear()
    with ServedKit(settings, Owes) as kit:
        wait_until(lambda: len(CALLS) > 5, "ticks without an event")
        kit.service._state_file.prune(time.time() + 1e9)  # type: ignore[union-attr]
        assert "run" in kit.service._queues
    assert set(CALLS) == {2}


class Saves(Subscriber):
    name = "saves"

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        run.open_state()["waiting"] = event.step

    def flush(self, run: RunContext) -> None:
        run.open_state()["request"] = 7
        run.save()
        CALLS.append("sent")
        raise RetryLater("no answer", 100)


def test_what_was_saved_before_a_request_is_there_after_a_crash(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(3))
    with ServedKit(settings, Saves):
        wait_until(lambda: bool(CALLS), "a request")
        path = settings.home / "subscribers" / "saves.1.db"
        with contextlib.closing(sqlite3.connect(path)) as db:  # as a crash would leave it
            [(state,)] = db.execute("SELECT state FROM runs").fetchall()
            [(seq,)] = db.execute("SELECT seq FROM next_seqs").fetchall()
    assert (json.loads(state), seq) == ({"waiting": 2, "request": 7}, 5)


class GivesUp(Subscriber):
    name = "gives-up"

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        run.open_state()["handled"] = event.step
        if event.step == 2:
            run.report("the receiver refused it")


def test_a_handler_that_gives_something_up_goes_on_with_its_state() -> None:
    outcome = deliver(GivesUp(), synthetic_run(steps=3))
    assert outcome.state == {"handled": 3}
    [error] = outcome.errors
    assert (error["action"], error["method"], error["kind"]) == ("skipped", "on_log", "log")
    assert error["error"] == {"type": "Error", "message": "the receiver refused it"}


def test_delays_double_and_no_two_are_alike() -> None:
    backoff = Backoff(1, 60)
    delays = [backoff.fail() for _ in range(50)]
    assert all(0.75 * min(2**n, 60) <= delay <= 75 for n, delay in enumerate(delays))
    assert len(set(delays)) == 50
    backoff.succeed()
    assert backoff.fail() <= 1.25
