"""The stopper turn by turn in this process, beside a real broker: what it says, and says once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator

import pytest

from lineside.bus.protocol.events import Event
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from lineside.subscribers.stopper.reading import rule
from lineside.subscribers.stopper.stopper import Stopper
from tests.subscribers.conftest import DEADLINE

RULES = [
    rule({"monitor": "eval_loss", "patience": 2}, "a test"),
    rule({"not_finite": 1, "action": "alert"}, "a test"),
]


class Life:
    """A stopper from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        self.stopper = Stopper(settings, RULES)
        self.stopper.startup()
        self._is_over = False

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline, "it never came true"
            self.stopper.turn()

    def kill(self) -> None:
        """What a SIGKILL leaves: connections closed, nothing written down."""
        if not self._is_over:
            self._is_over = True
            self.stopper.reader.close()
            self.stopper._outbox.close()
            assert self.stopper._memory is not None
            self.stopper._memory.close()

    def end(self) -> None:
        """What a SIGTERM does."""
        self._is_over = True
        self.stopper.shutdown()


@pytest.fixture
def begin(settings: Settings, broker: BrokerProcess) -> Iterator[Callable[[], Life]]:
    """``begin()``: a stopper, killed if the test does not end it."""
    lives: list[Life] = []

    def make() -> Life:
        lives.append(Life(settings))
        return lives[-1]

    yield make
    for life in lives:
        life.kill()


@pytest.fixture
def training(settings: Settings, broker: BrokerProcess) -> Iterator[Producer]:
    """A run that has begun to train."""
    with Producer(broker.address, "run/rank0/a1") as producer:
        producer.emit("run_start", data={"name": "run", "project": "tests"})
        producer.emit("train_begin")
        producer.emit("epoch_begin")
        producer.flush()
        yield producer


Begin = Callable[[], Life]


def evaluate(training: Producer, step: int, loss: float) -> None:
    training.emit("step_end", step=step)
    training.emit("evaluate", step=step, data={"metrics": {"eval_loss": loss}})
    training.flush()


def said(settings: Settings) -> list[Event]:
    return read_all(settings.broker, ["run/control", "run/stopper"])


def test_what_was_not_said_before_a_crash_is_said_after_it(
    settings: Settings, training: Producer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = begin()
    for step in (1, 2, 3):
        evaluate(training, step, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(life.stopper._outbox, "send", lambda: None)
        life.until(lambda: not life.stopper._outbox.is_empty)
        life.stopper._commit()
    life.kill()
    assert not said(settings)
    life = begin()
    life.until(lambda: bool(said(settings)))
    life.end()
    [command] = said(settings)
    assert (command.kind, command.step) == ("command", 3)
    assert command.data is not None
    assert (command.data["op"], command.data["args"]) == ("stop", {"save": True})


def test_what_was_said_before_a_crash_is_not_said_again(
    settings: Settings, training: Producer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = begin()
    monkeypatch.setattr(life.stopper, "_commit", lambda: None)
    for step in (1, 2, 3):
        evaluate(training, step, float("nan"))
    life.until(lambda: len(said(settings)) == 2)
    life.kill()
    again = begin()
    again.until(lambda: again.stopper._is_current and again.stopper._outbox.is_empty)
    again.end()
    assert sorted(event.kind for event in said(settings)) == ["alert", "command"]


def test_without_its_memory_it_reads_the_journal_again_and_says_nothing_twice(
    settings: Settings, training: Producer, begin: Begin
) -> None:
    life = begin()
    for step in (1, 2):
        evaluate(training, step, 1.0)
    life.until(lambda: life.stopper._read > 0)
    life.end()
    shutil.rmtree(settings.home / "stopper")
    life = begin()
    evaluate(training, 3, 1.0)
    life.until(lambda: bool(said(settings)))
    life.end()
    [command] = said(settings)
    assert command.step == 3


@pytest.mark.fault
def test_a_broker_that_is_held_up_is_not_taken_for_the_end_of_the_journal(
    settings: Settings, broker: BrokerProcess, training: Producer, begin: Begin
) -> None:
    for step in range(1, 101):  # more than the broker sends ahead
        evaluate(training, step, 1.0)
    life = begin()
    life.until(lambda: not life.stopper._outbox.is_empty)
    broker.freeze()
    try:
        for _ in range(80):
            life.stopper.turn()
        assert not life.stopper._outbox.is_empty
        assert not life.stopper._is_current
    finally:
        broker.resume()
    life.until(lambda: bool(said(settings)))
    life.end()
    assert [event.step for event in said(settings)] == [3]


def test_a_broker_that_is_gone_is_told_once_it_is_back(
    settings: Settings, broker: BrokerProcess, training: Producer, begin: Begin
) -> None:
    life = begin()
    for step in (1, 2):
        evaluate(training, step, 1.0)
    life.until(lambda: life.stopper._is_current)
    broker.kill()
    life.stopper.turn()
    broker.start()
    evaluate(training, 3, 1.0)
    life.until(lambda: bool(said(settings)))
    life.end()
    assert [event.step for event in said(settings)] == [3]


def test_an_event_that_makes_no_sense_is_passed_over(
    settings: Settings, training: Producer, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    training.emit("evaluate", step=1, data={"metrics": "none"})
    training.emit("log", step=1, data={"logs": {"loss": "x", 3: 4}})
    training.emit("run_start", data={"resumed_from": 7, "wait_for_verdict": "x"})
    training.emit("train_begin")
    life = begin()
    for step in (1, 2, 3):
        evaluate(training, step, 1.0)
    life.until(lambda: bool(said(settings)))
    life.end()
    assert [event.step for event in said(settings)] == [3]


@pytest.mark.parametrize("end", ["train_end", "train_error"])
def test_a_training_that_has_ended_meanwhile_is_asked_nothing(
    settings: Settings, training: Producer, begin: Begin, end: str
) -> None:
    for step in (1, 2, 3):
        evaluate(training, step, float("nan"))
    training.emit(end, step=3)
    training.flush()
    life = begin()
    life.until(lambda: life.stopper._is_current and life.stopper._outbox.is_empty)
    life.end()
    assert [event.kind for event in said(settings)] == ["alert"]


def test_what_is_long_past_when_rules_are_new_is_counted_and_not_said(
    settings: Settings, training: Producer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.subscribers.stopper.stopper.EXPIRES_SECONDS", -60.0)
    evaluate(training, 1, float("nan"))
    evaluate(training, 2, 1.0)
    evaluate(training, 3, 1.0)
    life = begin()
    life.until(lambda: life.stopper._is_current)
    evaluate(training, 4, 2.0)
    life.until(lambda: bool(said(settings)))
    life.end()
    [command] = said(settings)
    assert command.data is not None
    assert command.data["reason"].endswith("2 times in a row, and is 2")
