"""``lineside.subscribers.testing``: a run is delivered in one line."""

from __future__ import annotations

from typing import Any

import pytest

from lineside.bus.client.reader import Batch
from lineside.bus.errors import RunNotFound, UsageError
from lineside.bus.settings import Settings
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers import EvaluateEvent, LogEvent, RunContext, SaveEvent, Subscriber
from lineside.subscribers.context import MAX_EVENT_BYTES, MAX_STATE_BYTES, TooLarge
from lineside.subscribers.testing import deliver, recorded_run, synthetic_run


class Busy(Subscriber):
    name = "busy"
    log_key_prefix = "busy/"

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def on_log(self, run: RunContext, event: LogEvent) -> dict[str, float]:
        run.open_state()["last"] = event.step
        return {"seen": event.logs["loss"]}

    def on_evaluate(self, run: RunContext, event: EvaluateEvent) -> None:
        if event.metrics["eval_loss"] < 0.3:
            run.command("stop", "low enough", save=False)

    def on_save(self, run: RunContext, event: SaveEvent) -> None:
        if event.step == 4:
            raise OSError(f"{event.checkpoint} is gone")

    def tick(self, run: RunContext, now: float) -> None:
        self.calls.append("tick")

    def close(self, run: RunContext) -> None:
        self.calls.append("close")


def test_the_outcome_has_state_metrics_and_commands() -> None:
    busy = Busy()
    outcome = deliver(busy, synthetic_run(steps=4, log_every=2, evaluate_every=4))
    assert outcome.state == {"last": 4}
    assert outcome.metrics == [{"busy/seen": 0.5}, {"busy/seen": 0.25}]
    [command] = outcome.commands
    assert (command.op, command.args, command.reason) == ("stop", {"save": False}, "low enough")
    assert outcome.errors == []
    assert (outcome.run.step, outcome.run.progress, outcome.run.project) == (4, 1.0, "tests")
    assert busy.calls == ["tick", "close"]


def test_an_exception_of_a_handler_is_raised() -> None:
    with pytest.raises(OSError, match="/output/checkpoint-4 is gone"):
        deliver(Busy(), synthetic_run(steps=4, save_every=2))


def test_with_skip_an_exception_is_in_the_outcome() -> None:
    outcome = deliver(Busy(), synthetic_run(steps=4, save_every=2), on_error="skip")
    [error] = outcome.errors
    assert (error["action"], error["error"]["type"]) == ("skipped", "OSError")


def test_a_typo_is_an_error() -> None:
    with pytest.raises(UsageError, match="did you mean on_save"):
        deliver(type("Typo", (Subscriber,), {"on_saved": lambda *_: None})(), synthetic_run())


def test_a_recorded_run_is_delivered_from_the_store(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    engine = open_store(settings.store, create=True)
    events = list(synthetic_run(steps=6, run="recorded"))
    batch = Batch(1, events[0][0], tuple(event for _, event in events), ())
    Writer(engine).apply("journal", [batch])
    engine.dispose()
    outcome = deliver(Busy(), recorded_run("recorded", settings))
    assert outcome.state == {"last": 6}
    assert len(outcome.metrics) == 6
    with pytest.raises(RunNotFound):
        deliver(Busy(), recorded_run("other", settings))


class Large(Subscriber):
    name = "large"

    def on_train_begin(self, run: RunContext, event: object) -> None:
        run.publish("large", {"text": "x" * MAX_EVENT_BYTES})

    def on_epoch_begin(self, run: RunContext, event: object) -> None:
        run.publish("many", {"lists": [[]] * 40_000})

    def on_train_end(self, run: RunContext, event: object) -> None:
        run.open_state()["text"] = "x" * MAX_STATE_BYTES


def test_events_and_states_that_are_too_large_are_errors_of_the_handler() -> None:
    outcome = deliver(Large(), synthetic_run(steps=1), on_error="skip")
    assert [error["error"]["type"] for error in outcome.errors] == [TooLarge.__name__] * 3
    assert outcome.state == {}


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        ("run_end", {"how": "exit"}, ValueError),
        ("control_applied", {}, ValueError),
        ("process_lost", {}, ValueError),
        ("", {}, ValueError),
        ("x" * 129, {}, ValueError),
        ("mine", "text", TypeError),
        ("mine", {"a": object()}, TypeError),
        ("mine", {"a": "\ud800"}, UnicodeEncodeError),
        ("mine", {"a": 10**400}, OverflowError),
    ],
)
def test_what_cannot_be_published_is_an_error_of_the_handler(
    kind: str, data: Any, error: type[Exception]
) -> None:
    class Publishes(Subscriber):
        def on_log(self, run: RunContext, event: LogEvent) -> None:
            run.publish(kind, data)

    with pytest.raises(error):
        deliver(Publishes(), synthetic_run(steps=1))


def test_a_custom_kind_and_metrics_without_values_are_published() -> None:
    class Publishes(Subscriber):
        def on_log(self, run: RunContext, event: LogEvent) -> None:
            run.publish("мой kind", {"a": float("inf")})
            run.publish("metrics", {"other": 1})

    outcome = deliver(Publishes(), synthetic_run(steps=1))
    assert [one.kind for one in outcome.published] == ["мой kind", "metrics"]
    assert outcome.metrics == []
