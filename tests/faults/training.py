"""Trains a tiny model with the real Trainer, and notes each hook after Lineside's has returned.

Run as ``training.py NOTES OUTPUT MAX_STEPS EXIT_CODE``. ``NOTES`` gets a line
``kind step monotonic_ns 0`` for each hook, and one of kind ``exit`` once Lineside's exit handler
has returned; torch's own end is not counted.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.emitter import LinesideCallback


class HookNotes(TrainerCallback):
    """Comes after Lineside's callback, whose hook has returned when this one notes it."""

    def __init__(self, notes: int) -> None:
        self.notes = notes


def note(notes: int, kind: str, step: int) -> None:
    """Note an event with the present time."""
    os.write(notes, f"{kind} {step} {time.monotonic_ns()} 0\n".encode())


def _hook(kind: str) -> Any:
    def hook(self: HookNotes, args: Any, state: Any, control: Any, **given: Any) -> None:
        note(self.notes, kind, state.global_step)

    return hook


for _kind in LIFECYCLE_KINDS:
    setattr(HookNotes, f"on_{_kind}", _hook(_kind))


class Tokens(torch.utils.data.Dataset):
    """Rows of counting tokens."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.arange(8) + index % 16
        return {"input_ids": row, "labels": row}


def main(notes: int, output: Path, max_steps: int) -> None:
    """Train ``max_steps`` steps, logging each, evaluating and saving now and then."""
    torch.set_num_threads(1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=2,
        max_steps=max_steps,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=50,
        save_strategy="steps",
        save_steps=50,
        save_total_limit=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=[LinesideCallback(), HookNotes(notes)],
    ).train()


if __name__ == "__main__":
    noted = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Registered before Lineside's exit handler, so it is called after that.
    atexit.register(note, noted, "exit", 0)
    main(noted, Path(sys.argv[2]), int(sys.argv[3]))
    sys.exit(int(sys.argv[4]))
