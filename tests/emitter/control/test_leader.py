"""Commands applied to a real Trainer in this process, whose shipper the test plays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from lineside.bus.protocol.commands import OPS, Command
from lineside.emitter import LinesideCallback
from lineside.emitter.spool import status_page, status_reader
from tests.emitter.conftest import ReadSpool
from tests.emitter.control.command_inbox import (
    DeliverAt,
    deliver,
    hook_calls,
    outcomes,
    rejection_reason,
)
from tests.emitter.streams import data_of, only, open_publisher
from tests.support.tiny_trainer import HookLog, trainer


def test_a_stop_saves_and_ends_training_at_the_end_of_the_step(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    hook_log = HookLog()
    delivery = DeliverAt({2: [Command("stop", reason="enough")]})
    made = trainer(tmp_path, delivery, LinesideCallback(), hook_log)
    made.train()
    assert made.state.global_step == 2
    assert hook_calls(hook_log, "save", "train_end") == [("save", 2), ("train_end", 2)]
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").exists()
    answers = only(control_events())
    assert [event.kind for event in answers] == [
        "control_on",
        "control_delivered",
        "control_applied",
    ]
    assert data_of(answers[0]) == {"ops": list(OPS), "why": None}
    assert outcomes(answers) == [("stop", "applied", 2)]


def test_a_stop_without_saving_leaves_no_checkpoint(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    delivery = DeliverAt({1: [Command("stop", {"save": False})]})
    made = trainer(tmp_path, delivery, LinesideCallback())
    made.train()
    assert made.state.global_step == 1
    assert not list(tmp_path.glob("checkpoint-*"))
    assert outcomes(only(control_events())) == [("stop", "applied", 1)]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_save_evaluate_and_log_are_applied_at_the_step_they_arrive(
    home: Path, tmp_path: Path, control_events: ReadSpool, accumulation: int
) -> None:
    hook_log = HookLog()
    at = {2: [Command("save"), Command("evaluate")], 3: [Command("log")]}
    made = trainer(
        tmp_path,
        DeliverAt(at),
        LinesideCallback(),
        hook_log,
        logging_steps=100,
        gradient_accumulation_steps=accumulation,
    )
    made.train()
    assert made.state.global_step == 4
    assert hook_calls(hook_log, "save", "evaluate") == [("evaluate", 2), ("save", 2)]
    logs = [(note["step"], "loss" in note["logs"]) for note in hook_log.seen if note["logs"]]
    assert (3, True) in logs
    assert outcomes(only(control_events())) == [
        ("evaluate", "applied", 2),
        ("save", "applied", 2),
        ("log", "applied", 3),
    ]


def test_an_evaluation_without_a_dataset_is_rejected_and_training_continues(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    made = trainer(tmp_path, DeliverAt({2: [Command("evaluate")]}), LinesideCallback())
    made.eval_dataset = None
    made.train()
    assert made.state.global_step == 4
    answers = only(control_events())
    assert outcomes(answers) == [("evaluate", "rejected", 2)]
    assert rejection_reason(answers) == "the Trainer has no evaluation dataset"


def test_a_stop_waits_only_one_step_for_a_save(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    made = trainer(
        tmp_path,
        DeliverAt({2: [Command("stop")]}),
        LinesideCallback(),
        save_strategy="best",
        metric_for_best_model="nothing_ever",
        greater_is_better=True,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=9,
    )
    made._determine_best_metric = lambda metrics, trial: False  # never the best
    made.train()
    assert made.state.global_step == 3
    answers = only(control_events())
    assert outcomes(answers) == [("stop", "applied", 3)]
    assert "without a checkpoint" in data_of(answers[-1])["why"]


def test_a_save_waits_a_step_where_the_trainer_would_reset_it(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    """With save_strategy="best" an evaluation decides again whether its step is saved."""
    hook_log = HookLog()
    made = trainer(
        tmp_path,
        DeliverAt({2: [Command("save")]}),
        LinesideCallback(),
        hook_log,
        save_strategy="best",
        metric_for_best_model="nothing_ever",
        greater_is_better=True,
        eval_strategy="steps",
        eval_steps=2,
        max_steps=6,
    )
    made._determine_best_metric = lambda *_, **__: False
    made.train()
    assert hook_calls(hook_log, "save") == [("save", 3)]
    assert outcomes(only(control_events())) == [("save", "applied", 3)]


def test_an_evaluation_after_a_prediction_still_needs_a_dataset(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    made = trainer(tmp_path, DeliverAt({2: [Command("evaluate")]}), LinesideCallback())
    rows, made.eval_dataset = made.eval_dataset, None
    made.predict(rows)
    made.train()
    assert made.state.global_step == 4
    *_, answers = control_events().values()
    assert outcomes(answers) == [("evaluate", "rejected", 2)]


def test_an_evaluation_that_may_be_the_best_is_saved(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    hook_log = HookLog()
    made = trainer(
        tmp_path,
        DeliverAt({3: [Command("evaluate")]}),
        LinesideCallback(),
        hook_log,
        load_best_model_at_end=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
    )
    made.train()
    assert ("save", 3) in hook_calls(hook_log, "save")
    assert Path(made.state.best_model_checkpoint).exists()


def test_an_expired_rate_supersedes_no_other(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    late = Command("set_lr", {"lr": 0.5}, expires_at=time.time() - 1)
    asked = [Command("set_lr", {"lr": 0.1}), late]
    trainer(tmp_path, DeliverAt({2: asked}), LinesideCallback()).train()
    assert outcomes(only(control_events())) == [("set_lr", "applied", 2), ("set_lr", "expired", 2)]


def test_commands_of_a_failed_training_are_rejected_when_the_next_begins(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 2 and not answered_before:
                answered_before.append(1)
                deliver(Command("save"))
                raise RuntimeError("once")

    answered_before: list[int] = []
    made = trainer(tmp_path, LinesideCallback(), Failing())
    with pytest.raises(RuntimeError, match="once"):
        made.train()
    made.train()
    first, second = control_events().values()
    assert outcomes(first) == [("save", "rejected", 2)]
    assert outcomes(second) == []


def test_a_changed_learning_rate_scales_the_rest_of_the_schedule(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    def rates(*asked: Any) -> list[float]:
        hook_log = HookLog()
        delivery = DeliverAt({3: list(asked)})
        made = trainer(
            tmp_path, delivery, LinesideCallback(), hook_log, max_steps=8, learning_rate=0.01
        )
        made.train()
        return [
            note["logs"]["learning_rate"]
            for note in hook_log.seen
            if "learning_rate" in (note["logs"] or {})
        ]

    plain = rates()
    changed = rates(Command("set_lr", {"lr": 1.0}), Command("set_lr", {"lr": 0.1}))
    assert changed[:2] == plain[:2]
    factor = changed[3] / plain[3]
    assert changed[3:] == pytest.approx([rate * factor for rate in plain[3:]])
    *_, answers = control_events().values()
    assert outcomes(answers) == [("set_lr", "superseded", 3), ("set_lr", "applied", 3)]
    applied = data_of(answers[-1])
    assert applied["to"] == 0.1
    assert factor == pytest.approx(0.1 / applied["from"])


def test_a_changed_learning_rate_survives_a_resume(home: Path, tmp_path: Path) -> None:
    asked = {2: [Command("set_lr", {"lr": 0.2}), Command("save")]}
    hook_log = HookLog()
    trainer(tmp_path, DeliverAt(asked), LinesideCallback(), hook_log, max_steps=8).train()
    again = HookLog()
    made = trainer(tmp_path, LinesideCallback(), again, max_steps=8)
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

    def rates(of: HookLog) -> dict[int, float]:
        return {
            note["step"]: note["logs"]["learning_rate"]
            for note in of.seen
            if "learning_rate" in (note["logs"] or {}) and note["step"] > 2
        }

    assert rates(again) == pytest.approx(rates(hook_log))
    assert max(rates(again).values()) > 0.1


def test_a_command_that_arrives_twice_is_applied_once(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    hook_log = HookLog()
    save = Command("save")
    made = trainer(tmp_path, DeliverAt({1: [save, save], 3: [save]}), LinesideCallback(), hook_log)
    made.train()
    assert hook_calls(hook_log, "save") == [("save", 1)]
    assert outcomes(only(control_events())) == [("save", "applied", 1)]


def test_a_late_command_expires(home: Path, tmp_path: Path, control_events: ReadSpool) -> None:
    late = Command("stop", expires_at=time.time() - 1)
    made = trainer(tmp_path, DeliverAt({2: [late]}), LinesideCallback())
    made.train()
    assert made.state.global_step == 4
    assert outcomes(only(control_events())) == [("stop", "expired", 2)]


def test_a_command_for_another_attempt_is_rejected(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    class AskingBoth(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 1:
                mine = open_publisher().identity.attempt
                deliver(Command("stop", attempt="an-earlier-one"), Command("save", attempt=mine))

    made = trainer(tmp_path, AskingBoth(), LinesideCallback())
    made.train()
    assert made.state.global_step == 4
    answers = only(control_events())
    assert outcomes(answers) == [("stop", "rejected", 2), ("save", "applied", 2)]
    assert rejection_reason(answers).startswith(
        "it was meant for attempt an-earlier-one, and this is "
    )


def test_invalid_commands_are_rejected_and_harmless(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    good = Command("save").to_data()
    asked = [
        good | {"id": "a", "op": "explode"},
        good | {"id": "b", "op": "set_lr", "args": {"lr": -1}},
        good | {"id": "c", "args": 5},
        good | {"id": ""},
        {"nothing": "known"},
        b"\0" * 20,
        good | {"id": "d", "later": "field"},
    ]
    made = trainer(tmp_path, DeliverAt({2: asked}), LinesideCallback())
    made.train()
    assert made.state.global_step == 4
    answers = only(control_events())
    assert [(data_of(e)["id"], e.kind) for e in answers if e.kind != "control_on"] == [
        ("a", "control_rejected"),
        ("b", "control_rejected"),
        ("c", "control_rejected"),
        ("d", "control_delivered"),
        ("d", "control_applied"),
    ]
    assert "'explode' is not valid; expected one of stop" in data_of(answers[1])["why"]


@pytest.mark.parametrize("kind", ["ext4", "overlay"])
def test_a_command_that_waits_when_training_ends_is_rejected(
    home: Path,
    tmp_path: Path,
    control_events: ReadSpool,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(status_page, "filesystem", lambda _: kind)

    class Late(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == state.max_steps:
                deliver(Command("save"))

    made = trainer(tmp_path, LinesideCallback(), Late())
    made.train()
    answers = only(control_events())
    assert outcomes(answers) == [("save", "rejected", 4)]
    assert rejection_reason(answers) == "training ended before it could be applied"


@pytest.mark.parametrize("kind", ["ext4", "overlay"])
def test_the_page_shows_after_training_that_no_commands_are_taken(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(status_page, "filesystem", lambda _: kind)

    class Shipper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            [folder] = (home / "spool").glob("*/control/*")
            status_reader.StatusPageFile(folder).acknowledge(100)

    trainer(tmp_path, LinesideCallback(), Shipper()).train()
    [folder] = (home / "spool").glob("*/control/*")
    fields = status_reader.read_page(folder)
    assert fields is not None
    assert fields.closed


def test_each_training_applies_its_own_commands(
    home: Path, tmp_path: Path, control_events: ReadSpool
) -> None:
    delivery = DeliverAt({2: [Command("stop", {"save": False})]})
    made = trainer(tmp_path, delivery, LinesideCallback())
    made.train()
    delivery.at = {1: [Command("save")]}
    made.train()
    first, second = control_events().values()
    assert outcomes(first) == [("stop", "applied", 2)]
    assert outcomes(second) == [("save", "applied", 1)]


def test_processes_that_cannot_agree_reject_every_command(
    home: Path, tmp_path: Path, control_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag set on one rank aborts or hangs the others."""
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 2)
    made: Trainer = trainer(tmp_path, DeliverAt({2: [Command("stop")]}), LinesideCallback())
    made.train()
    assert made.state.global_step == 4
    answers = only(control_events())
    assert outcomes(answers) == [("stop", "rejected", 2)]
    assert (
        "several processes that cannot agree: torch.distributed is not in use"
        in rejection_reason(answers)
    )
    assert data_of(answers[0])["ops"] == []
