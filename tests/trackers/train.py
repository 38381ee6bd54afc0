"""Train beside stock callbacks and Lineside: ``train.py SCENARIO OUTPUT CALLBACK...``.

CALLBACK is a short name or a class path; ``report_to`` is empty, so no other tracker loads.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from lineside.bus.callback_config import make_callback, parse_entries
from lineside.emitter import LinesideCallback
from tests.support import tiny_trainer
from tests.support.tiny_trainer import Tokens

ODD_VALUES: dict[int, dict[str, Any]] = {
    4: {"phase": "half way", "reward": None},
    6: {"reward": math.nan},
    8: {"reward": math.inf, "reward(max)": 0.5},
}
"""What is logged beside the loss of a step."""


OPEN_END = 4000
"""The steps of a training that is to be stopped before."""


class OddValues(Trainer):
    """Logs ``ODD_VALUES``."""

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= ODD_VALUES.get(self.state.global_step, {})
        super().log(logs, *args, **kwargs)


class Pause(TrainerCallback):
    """Takes its time for each step."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_end(self, *_: Any, **__: Any) -> None:
        time.sleep(self.seconds)


class Failure(TrainerCallback):
    """Removes each checkpoint, and raises at step 3."""

    def on_save(self, args: Any, *_: Any, **__: Any) -> None:
        for folder in Path(args.output_dir).glob("checkpoint-*"):
            shutil.rmtree(folder)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise RuntimeError("out of tokens")


def trainer(output: Path, *callbacks: TrainerCallback, **changes: Any) -> Trainer:
    usual: dict[str, Any] = {
        "max_steps": 12,
        "gradient_accumulation_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "report_to": [],
        "run_name": "twin-run",  # without it Trackio begins another run after train()
    }
    return tiny_trainer.trainer(output, *callbacks, kind=OddValues, **(usual | changes))


def whole(output: Path, *callbacks: TrainerCallback) -> None:
    """Accumulate, evaluate and save; afterwards evaluate and predict."""
    run = trainer(output, *callbacks)
    run.train()
    run.evaluate()
    run.predict(Tokens(4))


def slow(output: Path, *callbacks: TrainerCallback) -> None:
    """Take some twenty seconds, so that there is time for faults."""
    run = trainer(output, Pause(0.25), *callbacks, max_steps=60, eval_steps=20, save_steps=20)
    run.train()
    run.predict(Tokens(4))


def open_ended(output: Path, *callbacks: TrainerCallback) -> None:
    """Go on until a command stops it, or a file ``stop`` lies beside ``output``."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (output.parent / "stop").exists():
                control.should_training_stop = True

    trainer(
        output,
        Pause(0.25),
        *callbacks,
        Stop(),
        max_steps=OPEN_END,
        eval_steps=20,
        save_strategy="no",
        load_best_model_at_end=False,
        metric_for_best_model="loss",
    ).train()


def half(output: Path, *callbacks: TrainerCallback) -> None:
    """End after 8 of 12 steps, as a training that is stopped does."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 8

    trainer(output, *callbacks, Stop(), load_best_model_at_end=False).train()


def resumed(output: Path, *callbacks: TrainerCallback) -> None:
    """Continue from checkpoint 4, though an earlier training went on beyond it."""
    run = trainer(output, *callbacks)
    run.train(resume_from_checkpoint=str(output / "checkpoint-4"))


def failing(output: Path, *callbacks: TrainerCallback) -> None:
    """Save at step 2 a checkpoint that is soon gone, and raise at step 3."""
    run = trainer(output, *callbacks, Failure(), save_steps=2, load_best_model_at_end=False)
    run.train()


def made(name: str) -> TrainerCallback:
    """A callback by its short name or class path."""
    [entry] = parse_entries([name])
    callback: TrainerCallback = make_callback(entry)
    return callback


def dvclive() -> TrainerCallback:
    """DVCLive's callback, which writes into the working folder: that of the hosted twin, too."""
    from dvclive import Live
    from transformers.integrations import DVCLiveCallback

    folder = os.environ["TWIN_DVCLIVE"]
    return DVCLiveCallback(live=Live(dir=f"{folder}/dvclive", dvcyaml=f"{folder}/dvc.yaml"))


SCENARIOS = {f.__name__: f for f in (whole, slow, open_ended, half, resumed, failing)}

if __name__ == "__main__":
    scenario, folder, *names = sys.argv[1:]
    stock = [dvclive() if name == "dvclive" else made(name) for name in names]
    SCENARIOS[scenario](Path(folder), *stock, LinesideCallback())
