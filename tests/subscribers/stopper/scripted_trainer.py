"""A training with given evaluations; as a script, one that a stopper watches.

``scripted_trainer.py OUTPUT STEPS VALUES [KEY=VALUE ...]`` prints the last step and the learning
rate. ``VALUES`` are comma-separated, one for each step; later steps repeat the last one. ``resume``
is a checkpoint to resume, ``wait`` the seconds to wait for the stopper, ``pause`` the seconds
before each step, and ``nan`` a step whose gradients are NaN.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer


class Scripted(Trainer):
    """Evaluates after each step, with the value given for that step."""

    values: tuple[float, ...] = ()
    nan_step = 0

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        step = self.state.global_step
        metrics = {"eval_score": self.values[min(step, len(self.values)) - 1], "eval_other": 1.0}
        self.log(dict(metrics))
        on_evaluate = self.callback_handler.on_evaluate
        self.control: Any = on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def training_step(self, model: Any, *given: Any, **more: Any) -> Any:
        loss = super().training_step(model, *given, **more)
        if self.state.global_step + 1 == self.nan_step:
            next(model.parameters()).grad.fill_(math.inf)
        return loss


class Slow(TrainerCallback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        time.sleep(self.seconds)


def scripted(
    output: Path, steps: int, values: tuple[float, ...], *callbacks: TrainerCallback, **changes: Any
) -> Any:
    """A Trainer for which the lowest ``eval_score`` is the best."""
    made: Any = trainer(
        output,
        *callbacks,
        kind=Scripted,
        max_steps=steps,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="eval_score",
        greater_is_better=False,
        lr_scheduler_type="constant",
        **changes,
    )
    made.values = values
    return made


if __name__ == "__main__":
    folder, count, values_text, *more = sys.argv[1:]
    options = dict(option.split("=", 1) for option in more)
    made = scripted(
        Path(folder),
        int(count),
        tuple(map(float, values_text.split(","))),
        Slow(float(options.get("pause", "0"))),
        LinesideCallback(wait_for_stopper=float(options.get("wait", "0"))),
        learning_rate=1e-3,
    )
    made.nan_step = int(options.get("nan", "0"))
    made.train(resume_from_checkpoint=options.get("resume"))
    print(made.state.global_step, made.optimizer.param_groups[0]["lr"], flush=True)
