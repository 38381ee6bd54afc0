"""Training held up from outside, and what is done meanwhile: a real Trainer in this process."""

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
from tests.emitter.control.desk import Asking, put, said, seen, while_paused, why
from tests.emitter.streams import close_all, only
from tests.emitter.tiny_trainer import Witness, trainer


def test_a_pause_holds_until_it_is_resumed(
    home: Path, tmp_path: Path, answered: ReadSpool, spooled: ReadSpool
) -> None:
    made = trainer(tmp_path, Asking({2: [Command("pause")]}), LinesideCallback())
    began: list[float] = []

    def go_on() -> None:
        began.append(time.monotonic())
        put(Command("resume"))

    thread = while_paused(lambda: time.sleep(0.3), go_on)
    started = time.monotonic()
    made.train()
    thread.join()
    assert began[0] - started > 0.3
    assert made.state.global_step == 4
    assert said(only(answered())) == [("pause", "applied", 2), ("resume", "applied", 2)]
    steps = [event.step for event in only(spooled()) if event.kind == "step_end"]
    assert steps == [1, 2, 3, 4]


def test_what_is_asked_for_in_a_pause_is_done_and_the_pause_goes_on(
    home: Path, tmp_path: Path, answered: ReadSpool
) -> None:
    witness = Witness()
    made = trainer(
        tmp_path, Asking({2: [Command("pause")]}), LinesideCallback(), witness, logging_steps=100
    )
    thread = while_paused(
        lambda: put(Command("log")),
        lambda: put(Command("evaluate")),
        lambda: put(Command("save")),
        lambda: put(Command("set_lr", {"lr": 0.5})),
        lambda: put(Command("evaluate")),
        lambda: put(Command("stop")),
    )
    made.train()
    thread.join()
    assert made.state.global_step == 2
    assert seen(witness, "evaluate", "save") == [("evaluate", 2), ("save", 2)]
    answers = only(answered())
    assert said(answers) == [
        ("pause", "applied", 2),
        ("log", "applied", 2),
        ("evaluate", "applied", 2),
        ("save", "applied", 2),
        ("set_lr", "applied", 2),
        ("evaluate", "rejected", 2),
        ("stop", "applied", 2),
    ]
    assert "paused right after its save" in why(answers)


def test_a_stop_in_a_pause_saves_first(home: Path, tmp_path: Path, answered: ReadSpool) -> None:
    made = trainer(tmp_path, Asking({2: [Command("pause")]}), LinesideCallback())
    thread = while_paused(lambda: put(Command("stop")))
    made.train()
    thread.join()
    assert made.state.global_step == 2
    assert (tmp_path / "checkpoint-2").exists()
    assert said(only(answered()))[-1] == ("stop", "applied", 2)


def test_an_interrupt_ends_a_pause(home: Path, tmp_path: Path, answered: ReadSpool) -> None:
    made = trainer(tmp_path, Asking({2: [Command("pause")]}), LinesideCallback())
    thread = while_paused(_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    thread.join()
    close_all()
    assert said(only(answered())) == [("pause", "applied", 2)]


@pytest.mark.parametrize("call", ["evaluate", "log"])
def test_what_a_script_does_after_an_interrupted_pause_is_not_held_up(
    home: Path, tmp_path: Path, call: str
) -> None:
    made = trainer(tmp_path, Asking({2: [Command("pause")]}), LinesideCallback())
    thread = while_paused(_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    thread.join()
    if call == "log":
        made.log({"a": 1.0})
    else:
        made.evaluate()


def test_an_evaluation_that_fails_in_a_pause_holds_nothing_up_afterwards(
    home: Path, tmp_path: Path
) -> None:
    class Failing(TrainerCallback):
        def on_prediction_step(self, *_: Any, **__: Any) -> None:
            if self.fails:
                raise MemoryError

        fails = True

    failing = Failing()
    made = trainer(tmp_path, Asking({2: [Command("pause")]}), LinesideCallback(), failing)
    thread = while_paused(lambda: put(Command("evaluate")))
    with pytest.raises(MemoryError):
        made.train()
    thread.join()
    failing.fails = False
    made.evaluate()


def test_a_pause_ends_by_itself_when_it_was_asked_to(
    home: Path, tmp_path: Path, answered: ReadSpool
) -> None:
    made = trainer(tmp_path, Asking({2: [Command("pause", {"seconds": 0.5})]}), LinesideCallback())
    started = time.monotonic()
    made.train()
    assert time.monotonic() - started > 0.5
    assert made.state.global_step == 4


def test_a_pause_waits_for_what_its_step_is_to_do(
    home: Path, tmp_path: Path, answered: ReadSpool
) -> None:
    there: list[bool] = []
    at = {2: [Command("save"), Command("evaluate"), Command("pause")]}
    made = trainer(tmp_path, Asking(at), LinesideCallback())
    thread = while_paused(
        lambda: there.append((tmp_path / "checkpoint-2" / "trainer_state.json").exists()),
        lambda: put(Command("resume")),
    )
    made.train()
    thread.join()
    assert there == [True]


def test_a_pause_goes_on_over_a_dict_of_datasets(
    home: Path, tmp_path: Path, answered: ReadSpool
) -> None:
    witness = Witness()
    made = trainer(tmp_path, Asking({2: [Command("pause")]}), witness, LinesideCallback())
    made.eval_dataset = {"one": made.eval_dataset, "other": made.eval_dataset}
    evaluated: list[int] = []
    thread = while_paused(
        lambda: put(Command("evaluate")),
        lambda: evaluated.append(len(seen(witness, "evaluate"))),
        lambda: put(Command("resume")),
    )
    made.train()
    thread.join()
    assert evaluated == [2]


def test_a_pause_outlives_what_the_trainer_does_not_do(
    home: Path, tmp_path: Path, answered: ReadSpool
) -> None:
    class Refusing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_save = False

    made = trainer(
        tmp_path, Asking({2: [Command("save"), Command("pause")]}), LinesideCallback(), Refusing()
    )
    thread = while_paused(lambda: put(Command("resume")))
    made.train()
    thread.join()
    assert said(only(answered()))[-1] == ("resume", "applied", 3)
