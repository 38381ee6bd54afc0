"""A hosted callback gets, hook by hook, what the same callback gets in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lineside.emitter import LinesideCallback
from tests.emitter.streams import close_all
from tests.subscribers.callback_host.hook_notes import HookNotes, hosted
from tests.support.tiny_trainer import Tokens, trainer


def compare(home: Path, inside: HookNotes) -> HookNotes:
    """Check the hooks of a hosted callback against ``inside``, those of the run in ``home``."""
    close_all()
    outside = HookNotes()
    hosted(home, outside)
    assert [note["hook"] for note in outside.notes] == [note["hook"] for note in inside.notes]
    for ours, theirs in zip(outside.notes, inside.notes, strict=True):
        for part in ours:
            assert ours[part] == theirs[part], f"{part} of {ours['hook']}"
    return outside


def test_each_hook_gets_what_it_gets_in_training(home: Path, tmp_path: Path) -> None:
    inside = HookNotes()
    made = trainer(
        tmp_path / "out",
        LinesideCallback(),
        inside,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="best",
        metric_for_best_model="loss",
        load_best_model_at_end=True,
        include_num_input_tokens_seen=True,
        warmup_steps=2,
    )
    made.train()
    made.predict(Tokens(4))

    outside = compare(home, inside)

    hooks = {note["hook"] for note in outside.notes}
    assert {"on_evaluate", "on_save", "on_substep_end", "on_train_end", "on_predict"} <= hooks
    [first, second] = [note for note in outside.notes if note["hook"] == "on_evaluate"]
    assert first["state"]["best_metric"] is None  # it is still the previous one
    assert second["state"]["best_metric"] == first["metrics"]["eval_loss"]


def test_a_resumed_training_has_its_earlier_logs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path / "out", **changes).train()
    inside = HookNotes()
    # A relative folder: the best checkpoint and others are below it as it was given.
    monkeypatch.chdir(tmp_path)

    trainer(Path("out"), LinesideCallback(), inside, **changes).train(
        resume_from_checkpoint="out/checkpoint-2"
    )

    outside = compare(home, inside)
    [began] = [note for note in outside.notes if note["hook"] == "on_train_begin"]
    assert [one["step"] for one in began["state"]["log_history"]] == [1, 2]
    assert began["state"]["global_step"] == 2


def test_an_evaluation_without_a_training_has_its_arguments_and_metrics(
    home: Path, tmp_path: Path
) -> None:
    inside = HookNotes()
    trainer(tmp_path / "out", LinesideCallback(), inside).evaluate()

    compare(home, inside)
