"""Failing, hanging and late runs: nothing is lost, and no other run is delayed."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar

import pytest

from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import CURSOR
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers import (
    LogEvent,
    RunContext,
    Subscriber,
)
from lineside.subscribers.handler_runner import REPORT_TRIES, SubscriberStopped
from lineside.subscribers.service import SubscriberService
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState
from tests.subscribers.kit import ATTEMPT, ServedKit, published, train
from tests.support.waiting import wait_until

CALLS: list[Any] = []
"""What the handlers of the test noted."""


@pytest.fixture(autouse=True)
def clear_calls() -> None:
    CALLS.clear()


class Fast(Subscriber):
    retry_seconds: ClassVar[tuple[float, float]] = (0.02, 0.2)


class FailsThreeTimes(Fast):
    name = "fails-three-times"

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        state = run.open_state()
        state["tries"] = state.get("tries", 0) + 1
        CALLS.append(event.step)
        if event.step == 5 and CALLS.count(5) <= 3:
            raise ConnectionError("not reachable")
        state["handled"] = [*state.get("handled", []), event.step]
        run.publish("handled", {"all": state["handled"], "tries": state["tries"]})


def test_an_event_that_fails_three_times_is_retried_and_nothing_is_lost(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(10))
    with ServedKit(settings, FailsThreeTimes):
        wait_until(lambda: len(published(settings, "run", "handled")) == 10, "all is handled")
    assert [step for step in CALLS if step != 5] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert CALLS.count(5) == 4
    events = published(settings, "run/fails-three-times", "handled")
    assert [event.step for event in events] == list(range(10))
    assert events[-1].data == {"all": list(range(10)), "tries": 10}  # failed tries changed nothing
    assert not published(settings, "run", "subscriber_error")


class AlwaysFails(Fast):
    name = "always-fails"

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        CALLS.append((run.id, event.step))
        if run.id == "bad" and event.step == 2:
            raise ValueError("this log cannot be handled")


def test_an_event_that_always_fails_is_reported_on_its_run_and_delays_no_other(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service.LATE_SECONDS", 0.3)
    train(broker.address, "bad", range(5))
    with ServedKit(settings, AlwaysFails) as kit:
        wait_until(lambda: bool(published(settings, "bad", "subscriber_error")), "a report")
        train(broker.address, "good", range(5))
        wait_until(lambda: ("good", 4) in CALLS, "the other run")
        wait_until(lambda: kit.is_late("bad"), "a cursor of its own")
        wait_until(
            lambda: kit.service.reader.processed >= kit.service.reader.head,
            "the shared cursor passes",
        )
    [report] = published(settings, "bad/always-fails", "subscriber_error")
    assert report.data is not None
    assert report.data["action"] == "retrying"
    assert report.data["tries"] == REPORT_TRIES
    assert (report.data["method"], report.step) == ("on_log", 2)
    assert report.data["error"] == {
        "type": "ValueError",
        "message": "this log cannot be handled",
    }
    assert ("bad", 3) not in CALLS


def own_names(settings: Settings, name: str) -> tuple[str, ...]:
    """The durable names of late runs, as the broker has them."""
    with Reader(settings.broker, name=name, start=CURSOR) as reader:
        reader.wait_connected(10)
        return reader.names_below


def test_a_late_run_goes_on_after_a_restart_and_joins_the_others_again(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service.LATE_SECONDS", 0.2)

    class Broken(AlwaysFails):
        name = "heals"

    class Mended(Fast):
        name = "heals"

        def on_log(self, run: RunContext, event: LogEvent) -> None:
            CALLS.append((run.id, event.step))

    train(broker.address, "bad", range(5))
    with ServedKit(settings, Broken) as kit:
        wait_until(lambda: kit.is_late("bad"), "a cursor of its own")
        train(broker.address, "good", range(3))
        wait_until(
            lambda: kit.service.reader.processed >= kit.service.reader.head,
            "the shared cursor passes",
        )
    assert own_names(settings, "heals") == ("heals/bad",)
    CALLS.clear()
    with ServedKit(settings, Mended) as kit:
        wait_until(lambda: ("bad", 4) in CALLS, "what was held back")
        wait_until(lambda: not kit.is_late("bad"), "it is on time")
        with Producer(broker.address, "bad/rank0/20261122T000000-0000") as producer:
            producer.emit("log", step=7)
            producer.flush()
        wait_until(lambda: ("bad", 7) in CALLS, "what came after")
    assert CALLS == [("bad", 2), ("bad", 3), ("bad", 4), ("bad", 7)]
    assert own_names(settings, "heals") == ()


def test_a_run_that_was_reported_is_reported_as_recovered_after_a_restart(
    settings: Settings, broker: BrokerProcess
) -> None:
    class Mended(Fast):
        name = "always-fails"

        def on_log(self, run: RunContext, event: LogEvent) -> None:
            CALLS.append((run.id, event.step))

    def actions() -> list[Any]:
        events = published(settings, "bad", "subscriber_error")
        return [event.data["action"] for event in events if event.data]

    train(broker.address, "bad", range(5))
    with ServedKit(settings, AlwaysFails):
        wait_until(lambda: actions() == ["retrying"], "the report")
    assert CALLS.count(("bad", 2)) >= REPORT_TRIES
    with ServedKit(settings, Mended):
        wait_until(lambda: actions() == ["retrying", "recovered"], "the recovery")
    with ServedKit(settings, Mended):
        train(broker.address, "bad", range(5, 7), "20261122T000000-0000")
        wait_until(lambda: ("bad", 6) in CALLS, "the rest")
    assert actions() == ["retrying", "recovered"]


class Flushes(AlwaysFails):
    name = "flushes"

    def flush(self, run: RunContext) -> None:
        """Nothing: what counts is that it succeeds."""


def test_a_flush_before_a_failed_event_does_not_restart_the_count_of_tries(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "bad", range(5))
    with ServedKit(settings, Flushes):
        wait_until(lambda: bool(published(settings, "bad", "subscriber_error")), "a report")
        # One more try may have begun since the report.
        assert CALLS.count(("bad", 2)) in (REPORT_TRIES, REPORT_TRIES + 1)


class SlowEach(Fast):
    name = "slow-each"

    def on_log(self, run: RunContext, event: LogEvent) -> dict[str, float]:
        CALLS.append(event.step)
        time.sleep(0.1)
        state = run.open_state()
        state["logs"] = state.get("logs", 0) + 1
        return {"logs": state["logs"]}


def test_a_batch_of_slow_handlers_is_saved_in_its_middle_and_left_at_a_stop(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.handler_runner._FLUSH_SECONDS", 0.2)
    train(broker.address, "run", range(30))
    with ServedKit(settings, SlowEach):
        wait_until(lambda: bool(published(settings, "run", "metrics")), "the first metrics")
        assert len(CALLS) < 30
    assert len(CALLS) < 30
    with ServedKit(settings, SlowEach):
        wait_until(lambda: len(published(settings, "run", "metrics")) == 30, "the rest")
    assert list(range(30)) == CALLS


class Buffers(Fast):
    name = "buffers"
    fails = True

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        self.steps.append(event.step)

    def tick(self, run: RunContext, now: float) -> None:
        run.open_state()["ticks"] = run.open_state().get("ticks", 0) + 1
        CALLS.append("tick")

    def flush(self, run: RunContext) -> None:
        if self.fails:
            raise ConnectionError("not reachable")
        CALLS.extend(self.steps)
        self.steps.clear()


def test_events_that_were_not_flushed_are_handled_again_although_ticks_were_saved(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service._TICK_SECONDS", 0.05)
    train(broker.address, "run", range(5))
    with ServedKit(settings, Buffers):
        wait_until(lambda: CALLS.count("tick") > 3, "ticks between the tries")
    CALLS.clear()
    monkeypatch.setattr(Buffers, "fails", False)
    with ServedKit(settings, Buffers):
        wait_until(lambda: 4 in CALLS, "a flush")
    assert [call for call in CALLS if call != "tick"] == [0, 1, 2, 3, 4]


class Slow(Fast):
    name = "slow"
    release = threading.Event()

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        if run.id == "slow" and event.step == 0:
            self.release.wait(60)
        CALLS.append((run.id, event.step))


def test_a_handler_that_hangs_delays_no_other_run(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service.LATE_SECONDS", 0.2)
    Slow.release.clear()
    train(broker.address, "slow", range(3))
    with ServedKit(settings, Slow) as kit:
        train(broker.address, "quick", range(3))
        wait_until(lambda: ("quick", 2) in CALLS, "the other run")
        wait_until(lambda: kit.is_late("slow"), "a cursor of its own")
        Slow.release.set()
        wait_until(lambda: ("slow", 2) in CALLS, "the slow one")
        wait_until(lambda: not kit.is_late("slow"), "it is on time")
    assert [call for call in CALLS if call[0] == "slow"] == [("slow", 0), ("slow", 1), ("slow", 2)]


def test_with_skip_a_failed_event_is_reported_and_passed_over(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "bad", range(5))
    with ServedKit(settings, AlwaysFails, on_error="skip"):
        wait_until(lambda: ("bad", 4) in CALLS, "the events behind it")
        wait_until(lambda: bool(published(settings, "bad", "subscriber_error")), "a report")
    [report] = published(settings, "bad", "subscriber_error")
    assert report.data is not None
    assert report.data["action"] == "skipped"
    assert CALLS.count(("bad", 2)) == 1


def test_with_stop_the_process_ends_at_the_event_and_goes_on_there(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "bad", range(5))
    for _ in range(2):
        with ServedKit(settings, AlwaysFails, on_error="stop") as kit:
            kit.wait_ended()
        assert isinstance(kit.error, SubscriberStopped)
        assert "on_log of bad/rank0/" in str(kit.error)
        assert CALLS[-1] == ("bad", 2)
    actions = [event.data for event in published(settings, "bad", "subscriber_error")]
    assert [data and data["action"] for data in actions] == ["stopped", "stopped"]


def test_a_run_that_stopped_its_subscriber_is_not_handled_again(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that comes before the process has ended starts no further try."""
    errors: list[BaseException] = []
    monkeypatch.setattr(SubscriberService, "_set_fatal", lambda _, error: errors.append(error))
    train(broker.address, "bad", range(5))
    with ServedKit(settings, AlwaysFails, on_error="stop"):
        wait_until(lambda: errors, "the handler fails")
        train(broker.address, "bad", range(5, 8), attempt="20261121T000000-0001")
        train(broker.address, "good", range(5))
        wait_until(lambda: ("good", 4) in CALLS, "the other run is handled")
    assert CALLS.count(("bad", 2)) == len(errors) == 1


class Odd(Fast):
    name = "odd"
    on_error = "skip"

    def on_log(self, run: RunContext, event: LogEvent) -> Any:
        CALLS.append(event.step)
        return [event.step]


def test_a_handler_that_returns_no_dict_has_failed(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(1))
    with ServedKit(settings, Odd):
        wait_until(lambda: bool(published(settings, "run", "subscriber_error")), "a report")
    [report] = published(settings, "run", "subscriber_error")
    assert report.data is not None
    assert report.data["error"]["message"] == (
        "on_log returned list: expected a dict of metrics or None"
    )


@pytest.mark.fault
def test_a_late_run_catches_up_although_the_broker_is_killed(
    settings: Settings, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.service.LATE_SECONDS", 0.2)
    Slow.release.clear()
    train(broker.address, "slow", range(300))
    with ServedKit(settings, Slow) as kit:
        wait_until(lambda: kit.is_late("slow"), "a cursor of its own")
        broker.kill()
        Slow.release.set()
        broker.start()
        with Producer(broker.address, f"slow/rank0/{ATTEMPT}x") as producer:
            producer.emit("log", step=300)
            producer.flush(30)
        wait_until(lambda: ("slow", 300) in CALLS, "all logs")
        wait_until(lambda: not kit.is_late("slow"), "it is on time")
    assert [step for _, step in CALLS] == list(range(301))


def test_a_publication_that_cannot_be_sent_ends_the_process(
    settings: Settings, broker: BrokerProcess
) -> None:
    file = SubscriberState.of(settings.home, "fails-three-times")
    own = Stream("run", "fails-three-times", ATTEMPT)
    file.publish(Publication(own, "mine", 1, None, 1e9, {"text": "\ud800"}))
    file.close()
    with ServedKit(settings, FailsThreeTimes) as kit:
        kit.wait_ended()
    assert isinstance(kit.error, UnicodeEncodeError)
