"""Trainings that end in every way there is: ``ends_train.py SCENARIO OUTPUT``.

Without arguments it imports what takes long and then forks a process for each line it reads, a JSON
``[scenario, output, environment]``, and answers with its pid.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer

ENDLESS = 1_000_000
AT_STEP = 3
EVENT_TIME_FILE = "fact"
"""The file that holds when it happened, where the training does it to itself."""


class Act(TrainerCallback):
    """Takes its time for each step, and acts at the third one's end."""

    def __init__(self, output: Path, act: Callable[[], object], pause: float = 0.05) -> None:
        self.output, self.act, self.pause = output, act, pause

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        time.sleep(self.pause)
        if state.global_step == AT_STEP:
            (self.output / EVENT_TIME_FILE).write_text(str(time.time()))
            self.act()


# Coverage sets a handler of its own in every process, which ends it once it is called.
signal.signal(signal.SIGTERM, signal.SIG_DFL)


def do_nothing() -> None:
    """Go on."""


def bad_batch() -> None:
    """A failure of the training itself."""
    raise ValueError("bad batch")


def train(output: Path, act: Callable[[], object] = do_nothing, **changes: Any) -> None:
    """Train without an end, unless ``act`` or ``changes`` give it one."""
    output.mkdir(parents=True, exist_ok=True)
    changes = {"max_steps": ENDLESS, "logging_steps": 100, **changes}
    callbacks = [Act(output, act), *changes.pop("callbacks", ())]
    if "LINESIDE_LAUNCH" not in os.environ:
        callbacks.append(LinesideCallback())
    trainer(output, *callbacks, **changes).train()


def caught(output: Path) -> None:
    """The script takes the exception for no reason to end."""
    try:
        train(output, bad_batch)
    except ValueError:
        print("and on", flush=True)


def caught_and_on(output: Path) -> None:
    """And goes on with something else."""
    caught(output)
    time.sleep(600)


def early(output: Path) -> None:
    """transformers' own callback ends it."""
    changes: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    changes |= {"save_steps": 1, "save_total_limit": 1, "load_best_model_at_end": True}
    changes |= {"metric_for_best_model": "eval_loss", "learning_rate": 0.0}
    train(output, callbacks=[EarlyStoppingCallback(2)], **changes)


def one_after_another(output: Path) -> None:
    """Two runs in one process, of which the second is killed."""
    for name, act, steps in (("first", do_nothing, 4), ("second", kill, ENDLESS)):
        path = output / name
        path.mkdir(parents=True)
        made = LinesideCallback(run_id=f"run-the-{name}")
        trainer(path, Act(path, act), made, max_steps=steps).train()


def one_rank_raises(output: Path) -> None:
    """Of two ranks, the second fails, and the first only loses its connection."""
    is_second = os.environ["RANK"] == "1"
    train(output, bad_batch if is_second else do_nothing, use_cpu=True)


def one_rank_killed(output: Path) -> None:
    """Of two ranks, the second is killed while the first waits for it, and so loses its connection
    before anybody else has noticed."""
    is_second = os.environ["RANK"] == "1"
    train(output, kill_late if is_second else do_nothing, use_cpu=True)


def hungry() -> None:
    """Take memory until there is none left."""
    taken = []
    while True:
        taken.append(bytearray(b"x" * (64 << 20)))


def kill() -> None:
    """Be ended from one moment to the next."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_late() -> None:
    """Be waited for, and then be ended."""
    time.sleep(0.5)
    kill()


SCENARIOS: Mapping[str, Callable[[Path], object]] = {
    "success": lambda output: train(output, max_steps=4),
    "exception": lambda output: train(output, bad_batch),
    "caught": caught,
    "caught_and_on": caught_and_on,
    "sys_exit": lambda output: train(output, lambda: sys.exit(3)),
    "os_exit": lambda output: train(output, lambda: os._exit(3)),
    "segfault": lambda output: train(output, lambda: ctypes.string_at(0)),
    "abort": lambda output: train(output, os.abort),
    "early": early,
    "endless": train,
    "slow_step": lambda output: train(output, lambda: time.sleep(600)),
    "workers": lambda output: train(output, dataloader_num_workers=2),
    "hungry": lambda output: train(output, hungry),
    "one_after_another": one_after_another,
    "one_rank_raises": one_rank_raises,
    "one_rank_killed": one_rank_killed,
}


def run(scenario: str, output: str) -> None:
    """Do it, in the main thread, as a script would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    SCENARIOS[scenario](Path(output))


def serve() -> tuple[str, str] | None:
    """Fork for each line; a child's is what it is to do, and None once there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        scenario, output, environment = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ.update(environment)
            Path(output).mkdir(parents=True)
            log = os.open(Path(output) / "log", os.O_WRONLY | os.O_CREAT, 0o600)
            for fd in (1, 2):
                os.dup2(log, fd)
            return scenario, output
        print(pid, flush=True)
    return None


if __name__ == "__main__":
    order = (sys.argv[1], sys.argv[2]) if len(sys.argv) > 1 else serve()
    if order is not None:
        run(*order)
