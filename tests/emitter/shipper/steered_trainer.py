"""A slow training in a process of its own: ``OUTPUT STEPS [SECONDS before it]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer


class Slow(TrainerCallback):
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        time.sleep(0.02)


output, steps, *before = sys.argv[1:]
made = trainer(Path(output), Slow(), LinesideCallback(), max_steps=int(steps), logging_steps=100)
print("made", flush=True)
time.sleep(float(before[0]) if before else 0)
made.train()
print(made.state.global_step, flush=True)
