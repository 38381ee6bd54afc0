"""A real Trainer is paused and resumed, and applies commands in the pause."""

from __future__ import annotations

import _thread
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from lineside.bus.protocol.commands import Command
from lineside.emitter import LinesideCallback
from tests.emitter.conftest import ReadSpool
from tests.emitter.control.command_inbox import (
    DeliverAt,
    deliver,
    hook_calls,
    outcomes,
    rejection_reason,
    while_paused,
)
from tests.emitter.streams import close_all, only
from tests.support.tiny_trainer import HookLog, trainer


def test_a_pause_lasts_until_resume(
    home: Path, tmp_path: Path, control_events: ReadSpool, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, DeliverAt({2: [Command("pause")]}), LinesideCallback())
    began: list[float] = []

    def go_on() -> None:
        began.append(time.monotonic())
        deliver(Command("resume"))

    thread = while_paused(lambda: time.sleep(0.3), go_on)
    started = time.monotonic()
    made.train()
    thread.join()
    assert began[0] - started > 0.3
    assert made.state.global_step == 4
    assert outcomes(only(control_events())) == [("pause", "applied", 2), ("resume", "applied", 2)]
    steps = [event.step for event in only(spool_events()) if event.kind == "step_end"]
    assert steps == [1, 2, 3, 4]


def test_commands_in_a_pause_are_applied_and_the_pause_continues(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    hook_log = HookLog()
    made = trainer(
        tmp_path,
        DeliverAt({2: [Command("pause")]}),
        LinesideCallback(),
        hook_log,
        logging_steps=100,
    )
    thread = while_paused(
        lambda: deliver(Command("log")),
        lambda: deliver(Command("evaluate")),
        lambda: deliver(Command("save")),
        lambda: deliver(Command("set_lr", {"lr": 0.5})),
        lambda: deliver(Command("evaluate")),
        lambda: deliver(Command("stop")),
    )
    made.train()
    thread.join()
    assert made.state.global_step == 2
    assert hook_calls(hook_log, "evaluate", "save") == [("evaluate", 2), ("save", 2)]
    answers = only(control_events())
    assert outcomes(answers) == [
        ("pause", "applied", 2),
        ("log", "applied", 2),
        ("evaluate", "applied", 2),
        ("save", "applied", 2),
        ("set_lr", "applied", 2),
        ("evaluate", "rejected", 2),
        ("stop", "applied", 2),
    ]
    assert "paused right after its save" in rejection_reason(answers)


def test_a_stop_in_a_pause_saves_first(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    made = trainer(tmp_path, DeliverAt({2: [Command("pause")]}), LinesideCallback())
    thread = while_paused(lambda: deliver(Command("stop")))
    made.train()
    thread.join()
    assert made.state.global_step == 2
    assert (tmp_path / "checkpoint-2").exists()
    assert outcomes(only(control_events()))[-1] == ("stop", "applied", 2)


def test_an_interrupt_ends_a_pause(home: Path, tmp_path: Path, control_events: ReadSpool) -> None:
    made = trainer(tmp_path, DeliverAt({2: [Command("pause")]}), LinesideCallback())
    thread = while_paused(_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    thread.join()
    close_all()
    assert outcomes(only(control_events())) == [("pause", "applied", 2)]


@pytest.mark.parametrize("call", ["evaluate", "log"])
def test_after_an_interrupted_pause_nothing_waits(home: Path, tmp_path: Path, call: str) -> None:
    made = trainer(tmp_path, DeliverAt({2: [Command("pause")]}), LinesideCallback())
    thread = while_paused(_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    thread.join()
    if call == "log":
        made.log({"a": 1.0})
    else:
        made.evaluate()


def test_after_a_failed_evaluation_in_a_pause_nothing_waits(home: Path, tmp_path: Path) -> None:
    class Failing(TrainerCallback):
        def on_prediction_step(self, *_: Any, **__: Any) -> None:
            if self.fails:
                raise MemoryError

        fails = True

    failing = Failing()
    made = trainer(tmp_path, DeliverAt({2: [Command("pause")]}), LinesideCallback(), failing)
    thread = while_paused(lambda: deliver(Command("evaluate")))
    with pytest.raises(MemoryError):
        made.train()
    thread.join()
    failing.fails = False
    made.evaluate()


def test_a_pause_with_a_duration_ends_by_itself(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    made = trainer(
        tmp_path, DeliverAt({2: [Command("pause", {"seconds": 0.5})]}), LinesideCallback()
    )
    started = time.monotonic()
    made.train()
    assert time.monotonic() - started > 0.5
    assert made.state.global_step == 4


def test_a_pause_begins_after_the_work_of_its_step(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    there: list[bool] = []
    at = {2: [Command("save"), Command("evaluate"), Command("pause")]}
    made = trainer(tmp_path, DeliverAt(at), LinesideCallback())
    thread = while_paused(
        lambda: there.append((tmp_path / "checkpoint-2" / "trainer_state.json").exists()),
        lambda: deliver(Command("resume")),
    )
    made.train()
    thread.join()
    assert there == [True]


def test_a_pause_continues_after_the_evaluation_of_several_datasets(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    hook_log = HookLog()
    made = trainer(tmp_path, DeliverAt({2: [Command("pause")]}), hook_log, LinesideCallback())
    made.eval_dataset = {"one": made.eval_dataset, "other": made.eval_dataset}
    evaluated: list[int] = []
    thread = while_paused(
        lambda: deliver(Command("evaluate")),
        lambda: evaluated.append(len(hook_calls(hook_log, "evaluate"))),
        lambda: deliver(Command("resume")),
    )
    made.train()
    thread.join()
    assert evaluated == [2]


def test_a_pause_continues_if_the_trainer_skips_what_it_was_asked_for(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    class Refusing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_save = False

    made = trainer(
        tmp_path,
        DeliverAt({2: [Command("save"), Command("pause")]}),
        LinesideCallback(),
        Refusing(),
    )
    thread = while_paused(lambda: deliver(Command("resume")))
    made.train()
    thread.join()
    assert outcomes(only(control_events()))[-1] == ("resume", "applied", 3)
