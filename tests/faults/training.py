"""Train a tiny model and note each hook once Lineside's has returned.

Run as a script: ``training.py NOTES OUTPUT MAX_STEPS EXIT_CODE``. ``NOTES`` gets a line
``kind step monotonic_ns 0`` for each hook, and one of kind ``exit`` once Lineside's exit handler
has returned (the time that torch needs to end is not measured).
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer


class NoteHooks(TrainerCallback):
    """Comes after Lineside's callback: a hook is noted once Lineside's has returned."""

    def __init__(self, notes: int) -> None:
        self.notes = notes


def note(notes: int, kind: str, step: int) -> None:
    """Note an event with the present time."""
    os.write(notes, f"{kind} {step} {time.monotonic_ns()} 0\n".encode())


def _hook(kind: str) -> Any:
    def hook(self: NoteHooks, args: Any, state: Any, control: Any, **given: Any) -> None:
        note(self.notes, kind, state.global_step)

    return hook


for _kind in LIFECYCLE_KINDS:
    setattr(NoteHooks, f"on_{_kind}", _hook(_kind))


def main(notes: int, output: Path, max_steps: int) -> None:
    """Train ``max_steps`` steps, logging each, evaluating and saving every 50 steps."""
    trainer(
        output,
        LinesideCallback(),
        NoteHooks(notes),
        max_steps=max_steps,
        eval_strategy="steps",
        eval_steps=50,
        save_strategy="steps",
        save_steps=50,
        save_total_limit=1,
    ).train()


if __name__ == "__main__":
    noted = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Registered before Lineside's exit handler, so it is called after that.
    atexit.register(note, noted, "exit", 0)
    main(noted, Path(sys.argv[2]), int(sys.argv[3]))
    sys.exit(int(sys.argv[4]))
