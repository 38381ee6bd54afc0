"""A hosted callback gets, hook by hook, what the same callback gets in training."""

from __future__ import annotations

from pathlib import Path

from lineside.emitter import LinesideCallback
from tests.emitter.streams import close_all
from tests.subscribers.callback_host.hook_notes import HookNotes, hosted
from tests.support.tiny_trainer import trainer


def test_each_hook_gets_what_it_gets_in_training(home: Path, tmp_path: Path) -> None:
    inside, outside = HookNotes(), HookNotes()
    trainer(
        tmp_path / "out",
        LinesideCallback(),
        inside,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        warmup_steps=2,
    ).train()
    close_all()

    hosted(home, outside)

    assert [note["hook"] for note in outside.notes] == [note["hook"] for note in inside.notes]
    for ours, theirs in zip(outside.notes, inside.notes, strict=True):
        assert ours == theirs
