"""The kit beside a real broker: what handlers are called with, and what they publish."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import pytest

from lineside.bus.errors import AddressInUse, UsageError
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers import (
    EvaluateEvent,
    LogEvent,
    RunContext,
    RunEvent,
    RunStartEvent,
    Subscriber,
)
from lineside.subscribers.context import RunFilter, TrackedRun
from lineside.subscribers.service import SubscriberService
from lineside.subscribers.state.subscriber_state import SavedRun
from tests.subscribers.kit import ATTEMPT, ServedKit, pause, published, train
from tests.support.waiting import wait_until

CALLS: list[Any] = []
"""What the handlers of the test noted."""


@pytest.fixture(autouse=True)
def clear_calls() -> None:
    CALLS.clear()


class Fast(Subscriber):
    retry_seconds: ClassVar[tuple[float, float]] = (0.02, 0.2)


class Notes(Fast):
    name = "notes"

    def on_run_start(self, run: RunContext, event: RunStartEvent) -> None:
        CALLS.append(("run_start", run.id, event.facts["project"]))

    async def on_log(self, run: RunContext, event: LogEvent) -> None:
        await pause()
        CALLS.append(("log", run.id, event.step, event.logs["loss"]))


def test_plain_and_async_handlers_get_typed_events_in_order(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(50))
    with ServedKit(settings, Notes):
        wait_until(lambda: len(CALLS) == 51, "all is handled")
    assert CALLS[0] == ("run_start", "run", "tests")
    assert [call[2] for call in CALLS[1:]] == list(range(50))


def test_a_subscriber_goes_on_at_its_cursor(settings: Settings, broker: BrokerProcess) -> None:
    train(broker.address, "a", range(3))
    with ServedKit(settings, Notes):
        wait_until(lambda: len(CALLS) == 4, "the first run")
    train(broker.address, "b", range(2))
    with ServedKit(settings, Notes):
        wait_until(lambda: len(CALLS) == 7, "the second run")
    assert [call[1] for call in CALLS] == ["a"] * 4 + ["b"] * 3


def test_a_new_subscriber_may_begin_at_the_newest_event(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "old", range(3))
    with ServedKit(settings, Notes, begin="live") as kit:
        wait_until(lambda: kit.service.is_caught_up, "it reads")
        train(broker.address, "new", range(2))
        wait_until(lambda: len(CALLS) == 3, "the new run")
    assert {call[1] for call in CALLS} == {"new"}
    CALLS.clear()
    train(broker.address, "newer", range(2))
    with ServedKit(settings, Notes, begin="live"):
        wait_until(lambda: len(CALLS) == 3, "what came meanwhile is not skipped")


def test_a_start_without_a_broker_is_no_use_of_the_name(
    settings: Settings, broker: BrokerProcess
) -> None:
    broker.kill()
    with ServedKit(settings, Notes, begin="live"):
        pass
    broker.start()
    train(broker.address, "old", range(3))
    with ServedKit(settings, Notes, begin="live") as kit:
        wait_until(lambda: kit.service.is_caught_up, "it reads")
        train(broker.address, "new", range(2))
        wait_until(lambda: len(CALLS) == 3, "the new run")
    assert {call[1] for call in CALLS} == {"new"}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({}, "handles nothing"),
        ({"flush": lambda self, run: None}, "handles nothing"),
        ({"on_log": lambda self, event: None}, r"expected \(self, run, event\)"),
        ({"tick": lambda self, run: None}, r"expected \(self, run, now\)"),
    ],
)
def test_a_class_that_no_event_can_reach_is_an_error(
    settings: Settings, methods: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        SubscriberService(settings, type("Deaf", (Subscriber,), methods))


def test_only_runs_and_projects_that_were_asked_for_are_handled(
    settings: Settings, broker: BrokerProcess
) -> None:
    for run in ("a-1", "b-1", "a-2"):
        train(broker.address, run, range(1))
    with ServedKit(settings, Notes, run_filter=RunFilter(["a-*"], ["tests"])):
        wait_until(lambda: len(CALLS) == 4, "two runs")
    assert {call[1] for call in CALLS} == {"a-1", "a-2"}


@pytest.mark.parametrize("name", ["on_logs", "on_evaluation"])
def test_a_method_of_no_event_is_an_error_that_names_the_nearest(
    settings: Settings, name: str
) -> None:
    typo = type("Typo", (Subscriber,), {name: lambda self, run, event: None})
    with pytest.raises(UsageError, match=rf"Typo\.{name}.*did you mean on_\w+\?"):
        SubscriberService(settings, typo)


def test_a_method_like_that_of_no_event_is_an_error_that_lists_them(settings: Settings) -> None:
    typo = type("Typo", (Subscriber,), {"on_zzz": lambda self, run, event: None})
    with pytest.raises(UsageError, match=r"no event: expected .*on_save, .*; other methods must"):
        SubscriberService(settings, typo)


def test_a_typo_of_on_log_names_on_log(settings: Settings) -> None:
    typo = type("Typo", (Subscriber,), {"on_logs": lambda self, run, event: None})
    with pytest.raises(UsageError, match=r"did you mean on_log\?"):
        SubscriberService(settings, typo)


class Judge(Fast):
    name = "judge"
    log_key_prefix = "judge/"
    frequency: ClassVar[dict[str, float]] = {"on_log": 0.1}

    async def on_log(self, run: RunContext, event: LogEvent) -> dict[str, float]:
        CALLS.append((event.step, run.progress))
        return {"quality": event.step / 100}

    def on_evaluate(self, run: RunContext, event: EvaluateEvent) -> None:
        CALLS.append(run.command("stop", "good enough", save=True))


def test_returned_metrics_are_published_once_in_each_tenth_of_the_run(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(1, 101))
    with ServedKit(settings, Judge):
        wait_until(lambda: len(published(settings, "run", "metrics")) == 11, "eleven calls")
    assert [step for step, _ in CALLS] == [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    events = published(settings, "run/judge", "metrics")
    assert [event.data for event in events][:2] == [
        {"metrics": {"judge/quality": 0.01}},
        {"metrics": {"judge/quality": 0.1}},
    ]
    assert [event.step for event in events] == [step for step, _ in CALLS]


def test_a_command_is_sent_once_to_the_attempt_of_its_event(
    settings: Settings, broker: BrokerProcess
) -> None:
    with Producer(broker.address, f"run/rank0/{ATTEMPT}") as producer:
        producer.emit("evaluate", step=3, data={"metrics": {"eval_loss": 1.0}})
        producer.flush()
    with ServedKit(settings, Judge):
        wait_until(lambda: bool(published(settings, "run/control", "command")), "the command")
    [command] = published(settings, "run/control", "command")
    assert command.data is not None
    assert command.data["id"] == CALLS[0]
    assert (command.data["op"], command.data["args"]) == ("stop", {"save": True})
    assert command.data["attempt"] == ATTEMPT
    assert command.data["reason"] == "good enough"


class Archive(Fast):
    name = "archive"

    def on_event(self, run: RunContext, event: RunEvent) -> None:
        CALLS.append((event.kind, run.name, run.project, run.step))


def test_on_event_gets_every_kind_and_the_context_follows_the_run(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(1, 3))
    with Producer(broker.address, "run/rank0/20261123T000000-0000") as producer:
        producer.emit("my_own_kind", step=9)
        producer.flush()
    with ServedKit(settings, Archive):
        wait_until(lambda: len(CALLS) == 5, "all kinds")
    assert [call[0] for call in CALLS] == ["run_start", "train_begin", "log", "log", "my_own_kind"]
    assert CALLS[-1] == ("my_own_kind", "name of run", "tests", 9)


def test_what_is_known_of_a_run_survives_a_restart(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(1, 3))
    with ServedKit(settings, Archive):
        wait_until(lambda: len(CALLS) == 4, "the beginning")
    CALLS.clear()
    with Producer(broker.address, "run/rank0/20261123T000000-0000") as producer:
        producer.emit("log", step=9)
        producer.flush()
    with ServedKit(settings, Archive):
        wait_until(lambda: len(CALLS) == 1, "the rest")
    assert CALLS == [("log", "name of run", "tests", 9)]


class Ticks(Fast):
    name = "ticks"

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        pass

    def tick(self, run: RunContext, now: float) -> None:
        CALLS.append((run.id, now))


def test_tick_is_called_while_nothing_comes(settings: Settings, broker: BrokerProcess) -> None:
    train(broker.address, "run", range(1))
    with ServedKit(settings, Ticks):
        wait_until(lambda: len(CALLS) >= 2, "two ticks")
    assert abs(CALLS[0][1] - time.time()) < 60


def test_a_second_process_of_the_same_name_is_refused(
    settings: Settings, broker: BrokerProcess
) -> None:
    with ServedKit(settings, Notes):
        service = SubscriberService(settings, Notes)
        with pytest.raises(AddressInUse, match="a subscriber of this name runs on this home"):
            service.startup()
        service.shutdown()


@pytest.mark.parametrize("name", ["recorder", "control", "rank0", "audit", "a/b", ""])
def test_a_name_of_lineside_or_of_no_stream_is_refused(settings: Settings, name: str) -> None:
    nameless = type("Named", (Subscriber,), {"name": name, "tick": lambda self, run, now: None})
    with pytest.raises(UsageError, match="expected 1 to 128"):
        SubscriberService(settings, nameless)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"on_error": "ignore"}, "on_error='ignore'.*expected one of retry, skip, stop"),
        ({"frequency": {"on_log": 2.0}}, "frequency=2.0 of on_log: expected a part of the run"),
        ({"frequency": {"on_logs": 0.1}}, "on_logs.*did you mean on_log"),
    ],
)
def test_a_setting_that_cannot_be_used_is_an_error(
    settings: Settings, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        SubscriberService(settings, type("Odd", (Subscriber,), attributes))


class Beats(Fast):
    name = "beats"

    def on_heartbeat(self, run: RunContext, event: RunEvent) -> dict[str, float]:
        return {"age": 1.0}


def test_metrics_about_another_producers_event_are_of_the_runs_attempt(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(1))
    with Producer(broker.address, "run/shipper/20261129T000000-0000") as producer:
        producer.emit("heartbeat", data={"phase": "training"})
        producer.flush()
    with ServedKit(settings, Beats):
        wait_until(
            lambda: bool(published(settings, f"run/beats/{ATTEMPT}", "metrics")), "the metrics"
        )


@pytest.mark.fault
def test_a_new_journal_is_read_from_its_start_without_duplicates(
    settings: Settings, broker: BrokerProcess
) -> None:
    train(broker.address, "run", range(5))
    with ServedKit(settings, Notes):
        wait_until(lambda: len(CALLS) == 6, "the first part")
        broker.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        broker.start()
        train(broker.address, "run", range(8))  # the same stream, shipped again and continued
        wait_until(lambda: ("log", "run", 7, 7) in CALLS, "the second part")
    assert [call[2] for call in CALLS[1:]] == list(range(8))


def test_a_log_changes_only_the_part_of_the_state_that_it_has() -> None:
    run = TrackedRun("run", "notes", ATTEMPT, SavedRun())
    stream = Stream("run", RANK_0, ATTEMPT)
    whole = {"max_steps": 10, "total_flos": 0.0, "best_metric": None}
    for seq, (kind, state) in enumerate([("train_begin", whole), ("log", {"total_flos": 5.0})]):
        run.observe(stream, Event(seq, time.time(), seq, kind, seq, None, 0, {"state": state}))
    assert run.trainer_state == whole | {"total_flos": 5.0}
    assert run.progress == 0.1
