"""The stopper in this process beside a real broker: it sends each message once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator

import pytest

from lineside.bus.protocol.events import Event
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from lineside.subscribers.stopper.rule_parser import parse_rule
from lineside.subscribers.stopper.stopper import Stopper
from tests.support.waiting import DEADLINE

RULES = [
    parse_rule({"monitor": "eval_loss", "patience": 2}, "a test"),
    parse_rule({"not_finite": 1, "action": "alert"}, "a test"),
]


class StopperHarness:
    """A stopper from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        self.stopper = Stopper(settings, RULES)
        self.stopper.startup()
        self._has_ended = False

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            self.stopper.run_once()

    def kill(self) -> None:
        """As SIGKILL: close connections and store nothing."""
        if not self._has_ended:
            self._has_ended = True
            self.stopper.reader.close()
            self.stopper._outbox.close()
            assert self.stopper._state_store is not None
            self.stopper._state_store.close()

    def end(self) -> None:
        """As SIGTERM: shut down."""
        self._has_ended = True
        self.stopper.shutdown()


@pytest.fixture
def start_stopper(
    settings: Settings, broker: BrokerProcess
) -> Iterator[Callable[[], StopperHarness]]:
    """``start_stopper()``: a stopper, killed if the test does not end it."""
    harnesses: list[StopperHarness] = []

    def make() -> StopperHarness:
        harnesses.append(StopperHarness(settings))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.kill()


@pytest.fixture
def training(settings: Settings, broker: BrokerProcess) -> Iterator[Producer]:
    """A run that has begun to train."""
    with Producer(broker.address, "run/rank0/a1") as producer:
        producer.emit("run_start", data={"name": "run", "project": "tests"})
        producer.emit("train_begin")
        producer.emit("epoch_begin")
        producer.flush()
        yield producer


StartStopper = Callable[[], StopperHarness]


def evaluate(training: Producer, step: int, loss: float) -> None:
    training.emit("step_end", step=step)
    training.emit("evaluate", step=step, data={"metrics": {"eval_loss": loss}})
    training.flush()


def published(settings: Settings) -> list[Event]:
    return read_all(settings.broker, ["run/control", "run/stopper"])


def test_a_command_not_sent_before_a_crash_is_sent_after_it(
    settings: Settings,
    training: Producer,
    start_stopper: StartStopper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = start_stopper()
    for step in (1, 2, 3):
        evaluate(training, step, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(harness.stopper._outbox, "send", lambda: None)
        harness.run_until(lambda: not harness.stopper._outbox.is_empty)
        harness.stopper.flush()
    harness.kill()
    assert not published(settings)
    harness = start_stopper()
    harness.run_until(lambda: bool(published(settings)))
    harness.end()
    [command] = published(settings)
    assert (command.kind, command.step) == ("command", 3)
    assert command.data is not None
    assert (command.data["op"], command.data["args"]) == ("stop", {"save": True})


def test_messages_sent_before_a_crash_are_not_sent_again(
    settings: Settings,
    training: Producer,
    start_stopper: StartStopper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = start_stopper()
    monkeypatch.setattr(harness.stopper, "flush", lambda: None)
    for step in (1, 2, 3):
        evaluate(training, step, float("nan"))
    harness.run_until(lambda: len(published(settings)) == 2)
    harness.kill()
    again = start_stopper()
    again.run_until(lambda: again.stopper.is_caught_up and again.stopper._outbox.is_empty)
    again.end()
    assert sorted(event.kind for event in published(settings)) == ["alert", "command"]


def test_without_its_state_file_it_reads_the_journal_again_and_sends_nothing_twice(
    settings: Settings, training: Producer, start_stopper: StartStopper
) -> None:
    harness = start_stopper()
    for step in (1, 2):
        evaluate(training, step, 1.0)
    harness.run_until(lambda: harness.stopper.offset > 0)
    harness.end()
    shutil.rmtree(settings.home / "stopper")
    harness = start_stopper()
    evaluate(training, 3, 1.0)
    harness.run_until(lambda: bool(published(settings)))
    harness.end()
    [command] = published(settings)
    assert command.step == 3


@pytest.mark.fault
def test_a_frozen_broker_is_not_the_end_of_the_journal(
    settings: Settings, broker: BrokerProcess, training: Producer, start_stopper: StartStopper
) -> None:
    for step in range(1, 101):  # more than the broker sends ahead
        evaluate(training, step, 1.0)
    harness = start_stopper()
    harness.run_until(lambda: not harness.stopper._outbox.is_empty)
    broker.freeze()
    try:
        for _ in range(80):
            harness.stopper.run_once()
        assert not harness.stopper._outbox.is_empty
        assert not harness.stopper.is_caught_up
    finally:
        broker.resume()
    harness.run_until(lambda: bool(published(settings)))
    harness.end()
    assert [event.step for event in published(settings)] == [3]


def test_messages_wait_until_the_broker_is_back(
    settings: Settings, broker: BrokerProcess, training: Producer, start_stopper: StartStopper
) -> None:
    harness = start_stopper()
    for step in (1, 2):
        evaluate(training, step, 1.0)
    harness.run_until(lambda: harness.stopper.is_caught_up)
    broker.kill()
    harness.stopper.run_once()
    broker.start()
    evaluate(training, 3, 1.0)
    harness.run_until(lambda: bool(published(settings)))
    harness.end()
    assert [event.step for event in published(settings)] == [3]


def test_malformed_events_are_skipped(
    settings: Settings,
    training: Producer,
    start_stopper: StartStopper,
    caplog: pytest.LogCaptureFixture,
) -> None:
    training.emit("evaluate", step=1, data={"metrics": "none"})
    training.emit("log", step=1, data={"logs": {"loss": "x", 3: 4}})
    training.emit("run_start", data={"resumed_from": 7, "wait_for_stopper": "x"})
    training.emit("train_begin")
    harness = start_stopper()
    for step in (1, 2, 3):
        evaluate(training, step, 1.0)
    harness.run_until(lambda: bool(published(settings)))
    harness.end()
    assert [event.step for event in published(settings)] == [3]


@pytest.mark.parametrize("end", ["train_end", "train_error"])
def test_a_training_that_has_ended_is_sent_no_command(
    settings: Settings, training: Producer, start_stopper: StartStopper, end: str
) -> None:
    for step in (1, 2, 3):
        evaluate(training, step, float("nan"))
    training.emit(end, step=3)
    training.flush()
    harness = start_stopper()
    harness.run_until(lambda: harness.stopper.is_caught_up and harness.stopper._outbox.is_empty)
    harness.end()
    assert [event.kind for event in published(settings)] == ["alert"]


def test_events_older_than_new_rules_are_counted_but_cause_no_command(
    settings: Settings,
    training: Producer,
    start_stopper: StartStopper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lineside.subscribers.stopper.stopper.EXPIRES_SECONDS", -60.0)
    evaluate(training, 1, float("nan"))
    evaluate(training, 2, 1.0)
    evaluate(training, 3, 1.0)
    harness = start_stopper()
    harness.run_until(lambda: harness.stopper.is_caught_up)
    evaluate(training, 4, 2.0)
    harness.run_until(lambda: bool(published(settings)))
    harness.end()
    [command] = published(settings)
    assert command.data is not None
    assert command.data["reason"].endswith("2 times in a row, and is 2")
