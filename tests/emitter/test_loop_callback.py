"""A plain trainer's callbacks: Lineside's own, and a class of the protocol beside the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.callback_config import load_callbacks_from_config
from lineside.bus.callbacks.loop_adapter import LoopCallbackAdapter
from lineside.bus.errors import CallbackConfigError
from lineside.emitter import LoopCallback
from lineside.emitter.training_callbacks import add_callbacks
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import data_of, only
from tests.subscribers.callback_host.hook_notes import hosted
from tests.support.tiny_trainer import trainer


def train(callbacks: Sequence[Any], epochs: int = 2, steps: int = 3) -> None:
    """What a plain trainer does with its callbacks."""
    for callback in callbacks:
        callback.on_train_begin()
    step = 0
    for epoch in range(epochs):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        for _ in range(steps):
            step += 1
            for callback in callbacks:
                callback.on_step_end(step, {"loss": 1 / step})
        for callback in callbacks:
            callback.on_epoch_end(epoch, {"val_loss": 2 / step})
    for callback in callbacks:
        callback.on_train_end()


class Calls:
    """A class of the protocol; it knows nothing of Lineside."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.calls: list[tuple[Any, ...]] = []

    def on_train_begin(self) -> None:
        self.calls.append(("train_begin",))

    def on_epoch_begin(self, epoch: int) -> None:
        self.calls.append(("epoch_begin", epoch))

    def on_step_end(self, step: int, metrics: dict[str, float]) -> None:
        self.calls.append(("step_end", step, metrics))

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.calls.append(("epoch_end", epoch, metrics))

    def on_train_end(self) -> None:
        self.calls.append(("train_end",))


class StepsOnly:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)


class OfAnotherProtocol:
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A Trainer's hook, in a class that is not made from TrainerCallback."""


def test_a_plain_trainer_publishes_through_its_callbacks(
    home: Path, spool_events: ReadSpool
) -> None:
    callback = LoopCallback("loop", project="p", tags=["a"])
    callback.run.event("early")
    train([callback])
    events = only(spool_events())
    assert (data_of(events[0])["name"], data_of(events[0])["tags"]) == ("loop", ["a"])
    one_epoch = ["epoch_begin", *["log", "step_end"] * 3, "epoch_end", "log"]
    assert [event.kind for event in events[1:]] == [
        "train_begin",
        *one_epoch,
        *one_epoch,
        "train_end",
        "run_end",
    ]
    logs = [(event.step, event.data) for event in events if event.kind == "log"]
    assert logs[:2] == [(1, {"logs": {"loss": 1.0}}), (2, {"logs": {"loss": 0.5}})]
    assert logs[-1] == (6, {"logs": {"val_loss": 2 / 6}})
    assert data_of(events[-1])["how"] == "exit"


def test_a_second_training_is_another_attempt_of_the_run(
    home: Path, spool_events: ReadSpool
) -> None:
    callback = LoopCallback("loop")
    train([callback])
    train([callback])
    runs, _, attempts = zip(*(stream.split("/") for stream in spool_events()), strict=True)
    assert (len(set(runs)), len(set(attempts))) == (1, 2)


def test_what_a_trainer_passes_wrongly_raises_nothing(home: Path) -> None:
    callback = LoopCallback()
    callback.on_step_end(1, {"loss": 1.0})  # before training begins
    callback.on_train_begin()
    callback.on_epoch_begin(None)  # type: ignore[arg-type]
    callback.on_step_end("x", 3)  # type: ignore[arg-type]
    callback.on_epoch_end("y", None)  # type: ignore[arg-type]
    callback.on_train_end()


def test_a_class_of_the_protocol_is_called_beside_the_training_as_in_it(home: Path) -> None:
    beside, inside = Calls(), Calls()
    train([LoopCallback("loop"), inside])
    hosted(home, LoopCallbackAdapter(beside))
    assert beside.calls == inside.calls


def test_a_class_of_the_protocol_is_called_for_a_loop_that_only_logs(home: Path) -> None:
    from lineside.emitter import start_run

    beside = Calls()
    with start_run("loop") as run:
        run.event("train_begin")
        for step in (10, 20):
            run.log({"loss": 1 / step}, step=step)
        run.event("train_end")
    hosted(home, LoopCallbackAdapter(beside))
    assert beside.calls == [
        ("train_begin",),
        ("step_end", 10, {"loss": 0.1}),
        ("step_end", 20, {"loss": 0.05}),
        ("train_end",),
    ]


def test_a_class_of_the_protocol_runs_in_a_trainer(tmp_path: Path) -> None:
    [adapter] = load_callbacks_from_config([f"{__file__}:Calls"])
    made = trainer(
        tmp_path,
        adapter,
        max_steps=-1,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        logging_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
    )
    made.train()
    calls = adapter.callback.calls
    assert [call[:2] for call in calls] == [
        ("train_begin",),
        ("epoch_begin", 0),
        *[("step_end", step) for step in (1, 2, 3)],
        ("epoch_end", 0),
        ("epoch_begin", 1),
        *[("step_end", step) for step in (4, 5, 6)],
        ("epoch_end", 1),
        ("train_end",),
    ]
    metrics = {call[:2]: call[2] for call in calls if len(call) == 3}
    assert metrics["step_end", 1] == {}
    assert metrics["step_end", 2]["learning_rate"] > 0
    assert metrics["epoch_end", 0]["eval_loss"] > 0
    assert metrics["epoch_end", 1]["eval_loss"] > 0


def test_a_class_with_one_of_the_methods_is_enough(home: Path) -> None:
    [adapter] = load_callbacks_from_config([f"{__file__}:StepsOnly"])
    train([LoopCallback("loop")])
    hosted(home, adapter)
    assert adapter.callback.steps == [1, 2, 3, 4, 5, 6]


def test_a_class_with_other_arguments_is_refused() -> None:
    with pytest.raises(CallbackConfigError, match=r"on_step_end\(step, metrics\)"):
        load_callbacks_from_config([f"{__file__}:OfAnotherProtocol"])


def test_the_arguments_of_its_constructor_are_checked() -> None:
    [adapter] = load_callbacks_from_config([{"name": f"{__file__}:Calls", "args": {"limit": 3}}])
    assert adapter.callback.limit == 3
    with pytest.raises(CallbackConfigError, match="limit"):
        load_callbacks_from_config([{"name": f"{__file__}:Calls", "args": {"limti": 3}}])


def test_a_class_of_the_protocol_can_run_in_training_by_configuration(tmp_path: Path) -> None:
    reports: list[Any] = []
    made = trainer(tmp_path, max_steps=2)
    entry = {"name": f"{__file__}:Calls", "where": "training"}
    add_callbacks(made.callback_handler, json.dumps([entry]), lambda *data: reports.append(data))
    made.train()
    adapter = made.callback_handler.callbacks[-1]
    assert [call[:2] for call in adapter.callback.calls] == [
        ("train_begin",),
        ("epoch_begin", 0),
        ("step_end", 1),
        ("step_end", 2),
        ("epoch_end", 0),
        ("train_end",),
    ]
    assert reports == []
