"""Trainings that end in every possible way: ``endings_train.py SCENARIO OUTPUT``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from lineside.emitter import LinesideCallback
from tests.endings_loop import AT_STEP, STEP_SECONDS, act_now, do_nothing, os_exit, segfault
from tests.support.tiny_trainer import trainer

ENDLESS = 1_000_000


class Act(TrainerCallback):
    """Pauses in each step and acts at the end of the third."""

    def __init__(
        self, output: Path, act: Callable[[], object], pause: float = STEP_SECONDS
    ) -> None:
        self.output, self.act, self.pause = output, act, pause

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        time.sleep(STEP_SECONDS)
        if state.global_step == AT_STEP:
            act_now(self.output, self.act)


def bad_batch() -> None:
    """A failure of the training itself."""
    raise ValueError("bad batch")


def train(output: Path, act: Callable[[], object] = do_nothing, **changes: Any) -> None:
    """Train without end, unless ``act`` or ``changes`` end it."""
    output.mkdir(parents=True, exist_ok=True)
    changes = {"max_steps": ENDLESS, "logging_steps": 100, **changes}
    callbacks = [Act(output, act), *changes.pop("callbacks", ())]
    if "LINESIDE_LAUNCH" not in os.environ:
        callbacks.append(LinesideCallback())
    trainer(output, *callbacks, **changes).train()


def caught(output: Path) -> None:
    """The script catches the exception and ends normally."""
    try:
        train(output, bad_batch)
    except ValueError:
        print("caught", flush=True)


def caught_and_on(output: Path) -> None:
    """The script catches the exception and continues with something else."""
    caught(output)
    time.sleep(600)


def early(output: Path) -> None:
    """A callback of transformers ends the training."""
    changes: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    changes |= {"save_steps": 1, "save_total_limit": 1, "load_best_model_at_end": True}
    changes |= {"metric_for_best_model": "eval_loss", "learning_rate": 0.0}
    train(output, callbacks=[EarlyStoppingCallback(2)], **changes)


def one_after_another(output: Path) -> None:
    """Two runs in one process; the second is killed."""
    for name, act, steps in (("first", do_nothing, 4), ("second", kill, ENDLESS)):
        path = output / name
        path.mkdir(parents=True)
        made = LinesideCallback(run_id=f"run-the-{name}")
        trainer(path, Act(path, act), made, max_steps=steps).train()


def one_rank_raises(output: Path) -> None:
    """Rank 1 fails, and rank 0 loses its connection."""
    is_second = os.environ["RANK"] == "1"
    train(output, bad_batch if is_second else do_nothing, use_cpu=True)


def one_rank_killed(output: Path) -> None:
    """Rank 1 is killed while rank 0 waits for it: rank 0 loses its connection before any other
    process has noticed."""
    is_second = os.environ["RANK"] == "1"
    train(output, kill_late if is_second else do_nothing, use_cpu=True)


def kill() -> None:
    """Send SIGKILL to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_late() -> None:
    """Let the other rank wait, then send SIGKILL to this process."""
    time.sleep(0.5)
    kill()


SCENARIOS: Mapping[str, Callable[[Path], object]] = {
    "success": lambda output: train(output, max_steps=4),
    "exception": lambda output: train(output, bad_batch),
    "caught": caught,
    "caught_and_on": caught_and_on,
    "sys_exit": lambda output: train(output, lambda: sys.exit(3)),
    "os_exit": lambda output: train(output, os_exit),
    "segfault": lambda output: train(output, segfault),
    "abort": lambda output: train(output, os.abort),
    "early": early,
    "endless": train,
    "slow_step": lambda output: train(output, lambda: time.sleep(600)),
    "workers": lambda output: train(output, dataloader_num_workers=2),
    "one_after_another": one_after_another,
    "one_rank_raises": one_rank_raises,
    "one_rank_killed": one_rank_killed,
}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
