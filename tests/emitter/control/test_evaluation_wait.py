"""A real Trainer waits at its evaluations for a stopper, which the test plays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from lineside.bus.protocol.commands import Command
from lineside.emitter import LinesideCallback
from lineside.emitter.spool import status_page, status_reader
from lineside.emitter.training import publisher
from tests.emitter.conftest import ReadSpool
from tests.emitter.control.command_inbox import deliver, review
from tests.emitter.streams import data_of, kinds, only, open_publisher
from tests.support.tiny_trainer import HookLog, trainer

EVALUATING: Mapping[str, Any] = {"eval_strategy": "steps", "eval_steps": 1}


class Stopper(TrainerCallback):
    """Calls ``at[step]`` before that step's evaluation is published, and keeps its seq."""

    def __init__(self, at: Mapping[int, Callable[[int], object]]) -> None:
        self.at = at
        self.seqs: dict[int, int] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        step, seq = state.global_step, open_publisher().next_seq
        self.seqs[step] = seq
        if step in self.at:
            self.at[step](seq)


class Timed(LinesideCallback):
    """Measures each evaluation's hook."""

    took: list[float]

    def on_evaluate(self, *given: Any, **more: Any) -> None:
        began = time.monotonic()
        super().on_evaluate(*given, **more)
        self.took = [*getattr(self, "took", []), time.monotonic() - began]


@pytest.mark.parametrize("kind", ["ext4", "overlay"])
def test_training_continues_at_once_after_a_review(
    home: Path,
    tmp_path: Path,
    spool_events: ReadSpool,
    control_events: ReadSpool,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(status_page, "filesystem", lambda _: kind)
    monkeypatch.setattr(publisher, "_MAINTAIN_EVERY_NS", 1 << 60)
    stopper = Stopper(dict.fromkeys(range(1, 5), lambda seq: deliver(review(seq))))
    made = trainer(tmp_path, stopper, LinesideCallback(wait_for_stopper=60), **EVALUATING)
    began = time.monotonic()
    made.train()
    assert time.monotonic() - began < 60
    assert made.state.global_step == 4
    events = only(spool_events())
    assert data_of(events[0])["wait_for_stopper"] == 60
    assert all(events[seq].kind == "evaluate" for seq in stopper.seqs.values())
    assert kinds(only(control_events())) == ["control_on"], "a review is not answered"


def test_after_the_wait_an_unmapped_page_has_the_next_phase(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_page, "filesystem", lambda _: "overlay")
    monkeypatch.setattr(publisher, "_MAINTAIN_EVERY_NS", 10_000_000)
    phases = []

    class RecordPhase(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            fields = status_reader.read_page(open_publisher()._spool.folder.path)
            assert fields is not None
            phases.append(fields.phase_name)

    callbacks = LinesideCallback(wait_for_stopper=0.1), RecordPhase()
    each_step = {**EVALUATING, "save_strategy": "steps", "save_steps": 1}
    trainer(tmp_path, *callbacks, max_steps=2, **each_step).train()
    assert phases == ["saving", "saving"]


def test_a_stop_at_an_evaluation_saves_and_ends_at_its_step(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    hook_log = HookLog()
    stopper = Stopper({1: lambda seq: deliver(review(seq)), 2: lambda _: deliver(Command("stop"))})
    made = trainer(tmp_path, stopper, LinesideCallback(wait_for_stopper=60), hook_log, **EVALUATING)
    made.train()
    assert made.state.global_step == 2
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").exists()
    assert [event.step for event in only(control_events()) if event.kind == "control_applied"] == [
        2
    ]


def test_a_learning_rate_is_changed_before_the_next_step(home: Path, tmp_path: Path) -> None:
    stopper = Stopper({2: lambda seq: deliver(Command("set_lr", {"lr": 0.5}), review(seq))})
    callback = LinesideCallback(wait_for_stopper=0.1)
    made = trainer(tmp_path, stopper, callback, **EVALUATING, lr_scheduler_type="constant")
    made.train()
    logged = [log["learning_rate"] for log in made.state.log_history if "learning_rate" in log]
    assert logged == [5e-5, 5e-5, 0.5, 0.5]


def test_without_a_review_it_waits_once_and_again_after_a_late_review(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = {3: lambda _: deliver(review(0))}  # of an evaluation long ago
    callback = Timed(wait_for_stopper=1)
    trainer(tmp_path, Stopper(late), callback, **EVALUATING).train()
    assert [seconds >= 1 for seconds in callback.took] == [True, False, True, False]
    assert capsys.readouterr().err.count("no stopper has reviewed an evaluation") == 1


def test_other_commands_wait_for_the_end_of_a_step(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    asked = [Command("evaluate"), Command("log"), Command("save")]
    stopper = Stopper({2: lambda seq: deliver(*asked, review(seq))})
    callback = LinesideCallback(wait_for_stopper=0.1)
    every_second = {**EVALUATING, "eval_steps": 2}
    trainer(tmp_path, stopper, callback, max_steps=3, **every_second).train()
    applied = [
        (data_of(event)["op"], event.step)
        for event in only(control_events())
        if event.kind == "control_applied"
    ]
    assert applied == [("evaluate", 3), ("log", 3), ("save", 3)]


def test_a_review_for_another_attempt_is_ignored(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    stopper = Stopper({1: lambda seq: deliver(review(seq, "another"))})
    callback = Timed(wait_for_stopper=0.2)
    trainer(tmp_path, stopper, callback, **EVALUATING).train()
    assert callback.took[0] >= 0.2
    assert kinds(only(control_events())) == ["control_on"]


def test_the_environment_overrides_the_argument(
    home: Path, tmp_path: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_WAIT_FOR_STOPPER", "0")
    callback = Timed(wait_for_stopper=60)
    trainer(tmp_path, callback, **EVALUATING).train()
    assert max(callback.took) < 30
    assert data_of(only(spool_events())[0])["wait_for_stopper"] == 0


def test_a_stop_that_must_wait_for_a_save_waits_for_the_next_step(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    """However often it is tried while this step's evaluation waits for a review."""
    stopper = Stopper({2: lambda _: deliver(Command("stop"))})

    class Later(TrainerCallback):
        """Delivers the review after the stop was tried more than once."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 2:
                threading.Timer(0.3, lambda: deliver(review(stopper.seqs[2]))).start()

    made = trainer(
        tmp_path,
        stopper,
        Later(),
        LinesideCallback(wait_for_stopper=60),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="best",
        metric_for_best_model="nothing_ever",
        greater_is_better=True,
        max_steps=9,
    )
    made._determine_best_metric = lambda *_, **__: False
    made.train()
    assert made.state.global_step == 3
    assert (tmp_path / "checkpoint-3").is_dir()
    assert "why" not in data_of(only(control_events())[-1])
