"""Exceptions of ``train()`` are published, even if the script catches them, and pass unchanged."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from lineside.emitter import LinesideCallback
from lineside.emitter.training import train_errors
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, kinds, only
from tests.support.tiny_trainer import trainer


class Raising(TrainerCallback):
    """Raises at the second step's end, ``times`` times."""

    def __init__(self, error: BaseException, times: int = 1) -> None:
        self.error, self.times = error, times

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 2 and self.times:
            self.times -= 1
            raise self.error


def ends_by_attempt(streams: dict[str, list[Any]]) -> list[list[str]]:
    """By attempt, the kinds of its last events."""
    ends = ("train_end", "train_error", "run_end")
    return [[kind for kind in kinds(events) if kind in ends] for events in streams.values()]


@pytest.mark.parametrize("is_added_later", [False, True])
def test_an_exception_that_the_script_catches_is_published_at_once(
    home: Path, tmp_path: Path, spool_events: ReadSpool, is_added_later: bool
) -> None:
    error = ValueError("bad batch")
    ours = LinesideCallback()
    callbacks = [Raising(error)] if is_added_later else [Raising(error), ours]
    made = trainer(tmp_path, *callbacks)
    if is_added_later:
        made.add_callback(ours)
    with pytest.raises(ValueError, match="bad batch") as raised:
        made.train()
    assert raised.value is error
    *_, last = only(spool_events())
    assert (last.kind, last.step) == ("train_error", 1)
    facts = data_of(last)["error"]
    assert (facts["type"], facts["message"]) == ("ValueError", "bad batch")
    assert "on_step_end" in facts["traceback"]

    made.evaluate()
    made.train()
    close_all()
    assert ends_by_attempt(spool_events()) == [["train_error", "run_end"], ["train_end", "run_end"]]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_a_base_exception_is_published_and_passes(
    home: Path, tmp_path: Path, spool_events: ReadSpool, error: BaseException
) -> None:
    made = trainer(tmp_path, Raising(error), LinesideCallback())
    with pytest.raises(type(error)):
        made.train()
    facts = data_of(only(spool_events())[-1])["error"]
    assert facts["type"] == type(error).__name__


def test_an_exception_before_training_does_not_end_a_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.train_dataset = None
    with pytest.raises(ValueError, match="train_dataset"):
        made.train()
    assert spool_events() == {}


def test_an_exception_that_train_catches_is_not_published(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    """The batch-size finder starts again with half the batch size."""
    error = RuntimeError("CUDA out of memory.")
    made = trainer(tmp_path, Raising(error), LinesideCallback(), auto_find_batch_size=True)
    made.train()
    close_all()
    assert ends_by_attempt(spool_events()) == [["run_end"], ["train_end", "run_end"]]


class TrialPruned(Exception):
    """Named as Optuna's."""


def test_a_pruned_trial_is_published_after_its_end(
    home: Path, tmp_path: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune(self: Trainer, *given: Any) -> None:
        # As with Optuna: the hook of the end comes, and then the exception.
        self.callback_handler.on_train_end(self.args, self.state, self.control)
        raise TrialPruned

    made = trainer(tmp_path, LinesideCallback(), eval_strategy="steps", eval_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_report_to_hp_search", prune)
        with pytest.raises(TrialPruned):
            made.train()
    made.train()

    def prune_before_training() -> None:
        raise TrialPruned

    made.model_init = prune_before_training
    with pytest.raises(TrialPruned):
        made.train()
    close_all()
    assert ends_by_attempt(spool_events()) == [
        ["train_end", "train_error", "run_end"],
        ["train_end", "run_end"],
    ]


def test_a_trainer_that_overrides_train_is_covered(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    class Own(Trainer):
        def train(self, *given: Any, **more: Any) -> Any:
            return self._inner_training_loop(self.args.train_batch_size, self.args)

    made = trainer(tmp_path, Raising(ValueError("x")), LinesideCallback(), kind=Own)
    with pytest.raises(ValueError, match="x"):
        made.train()
    assert ends_by_attempt(spool_events()) == [["train_error"]]


def test_train_keeps_its_signature_and_is_wrapped_once() -> None:
    LinesideCallback()
    wrapped = Trainer.train
    assert list(inspect.signature(wrapped).parameters)[:2] == ["self", "resume_from_checkpoint"]
    assert "Main training entry point" in (wrapped.__doc__ or "")
    assert "inner_training_loop" in inspect.getsource(wrapped)
    train_errors.wrap_train(Trainer, LinesideCallback)
    assert Trainer.train is wrapped


def test_a_trainer_without_the_callback_raises_as_before(tmp_path: Path) -> None:
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as raised:
        trainer(tmp_path, Raising(error)).train()
    assert raised.value is error


def test_a_class_without_a_python_train_is_not_changed() -> None:
    class Odd:
        train = len

    train_errors.wrap_train(Odd, LinesideCallback)
    train_errors.wrap_train(object, LinesideCallback)
    assert Odd.train is len


def test_a_copy_keeps_the_settings() -> None:
    ours = LinesideCallback(name="a", stop_on_sigterm=True)
    state = copy.deepcopy(ours).__getstate__()
    assert state == {
        "name": "a",
        "project": None,
        "run_id": None,
        "wait_for_stopper": 0.0,
        "stop_on_sigterm": True,
        "hold_checkpoints": None,
        "tags": (),
        "group": None,
        "notes": None,
        "config": None,
    }
