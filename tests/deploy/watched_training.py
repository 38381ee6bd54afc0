"""A training without an end that evaluates and saves: ``watched_training.py OUTPUT``."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer


class Odd(Trainer):
    """Now and then its gradients are infinite."""

    def training_step(self, model: Any, *given: Any, **more: Any) -> Any:
        loss = super().training_step(model, *given, **more)
        if self.state.global_step % 20 == 19:
            next(model.parameters()).grad.fill_(math.inf)
        return loss


class Slow(TrainerCallback):
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        time.sleep(0.05)


if __name__ == "__main__":
    trainer(
        Path(sys.argv[1]),
        Slow(),
        LinesideCallback(),
        kind=Odd,
        max_steps=100_000,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="steps",
        save_steps=10,
        save_total_limit=2,
        metric_for_best_model="eval_loss",
    ).train()
