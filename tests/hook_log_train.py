"""Train beside a log of every hook: ``hook_log_train.py SCENARIO OUTPUT LOG_FILE``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer

from lineside.emitter import LinesideCallback
from tests.support import tiny_trainer
from tests.support.tiny_trainer import HookLog, Tokens


class Diverging(Trainer):
    """Logs a NaN and both infinities as the loss of three steps."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        odd = {3: math.nan, 6: math.inf, 9: -math.inf}.get(self.state.global_step)
        if odd is not None and "loss" in logs:
            logs["loss"] = odd
        super().log(logs, *args, **kwargs)


def trainer(output: Path, hook_log: HookLog, **changes: Any) -> Trainer:
    usual: dict[str, Any] = {
        "max_steps": 12,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    return tiny_trainer.trainer(
        output, hook_log, LinesideCallback(), kind=Diverging, **(usual | changes)
    )


def steps(output: Path, hook_log: HookLog) -> None:
    """Accumulate, evaluate and save by steps, keep the best model, then evaluate and predict."""
    run = trainer(
        output,
        hook_log,
        gradient_accumulation_steps=3,
        save_total_limit=1,
        load_best_model_at_end=True,
        eval_on_start=True,
    )
    run.train()
    run.evaluate()
    run.predict(Tokens(4))


def epochs(output: Path, hook_log: HookLog) -> None:
    """Log, evaluate and save by epochs."""
    run = trainer(
        output,
        hook_log,
        max_steps=-1,
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
    )
    run.train()


def twice(output: Path, hook_log: HookLog) -> None:
    """Call train() twice on one Trainer."""
    run = trainer(output, hook_log, max_steps=5)
    run.train()
    run.train()


def resume(output: Path, hook_log: HookLog) -> None:
    """Continue from the newest checkpoint in ``output``."""
    trainer(output, hook_log, max_steps=16).train(resume_from_checkpoint=True)


def evaluate_only(output: Path, hook_log: HookLog) -> None:
    """Evaluate and predict without training."""
    run = trainer(output, hook_log)
    run.evaluate()
    run.predict(Tokens(4))


if __name__ == "__main__":
    scenario, folder, log_file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    log = HookLog()
    {f.__name__: f for f in (steps, epochs, twice, resume, evaluate_only)}[scenario](folder, log)
    log_file.write_text(json.dumps(log.seen))
