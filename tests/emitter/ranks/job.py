"""One rank of a small training: ``job.py OUTPUT``, with the plan of ``Job`` in JOB."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer

# Coverage installs a SIGTERM handler that ends the process.
signal.signal(signal.SIGTERM, signal.SIG_DFL)
OUTPUT = Path(sys.argv[1])
PLAN = json.loads(os.environ["JOB"])
RANK = int(os.environ["RANK"])
RESTART = int(os.environ["TORCHELASTIC_RESTART_COUNT"])


class Jitter(TrainerCallback):
    """Delays each rank at random hooks."""

    def __init__(self) -> None:
        self.random = random.Random(f"{PLAN['seed']}-{RANK}-{RESTART}")

    def _late(self, *_: Any, **__: Any) -> None:
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * PLAN["late"])

    on_step_begin = on_substep_end = on_step_end = on_log = on_evaluate = on_save = _late


class Slow(TrainerCallback):
    """Delays rank 0 at train begin."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        time.sleep(PLAN["sets_up"] if RANK == 0 else 0)


def main() -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=PLAN["timeout"]))
    callbacks: list[TrainerCallback] = [Slow(), Jitter()]
    if RANK not in PLAN["without"]:
        ours = LinesideCallback(
            wait_for_stopper=PLAN["waits"], stop_on_sigterm=PLAN["stop_on_sigterm"]
        )
        callbacks.insert(1 + PLAN["seed"] % 2, ours)
    made = trainer(
        OUTPUT,
        *callbacks,
        max_steps=PLAN["steps"],
        logging_steps=PLAN["logging_steps"],
        gradient_accumulation_steps=PLAN["accumulation"],
        max_grad_norm=0.5,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_strategy="steps" if PLAN["save_steps"] else "no",
        save_steps=PLAN["save_steps"] or 500,
        save_total_limit=PLAN["save_total_limit"],
        eval_strategy="steps" if PLAN["eval_steps"] else "no",
        eval_steps=PLAN["eval_steps"],
    )
    if RANK in PLAN["no_evaluation"]:
        made.eval_dataset = None
    if PLAN["logs_on_main"] and RANK:
        made.log = lambda *_, **__: None
    if RANK == 1 and PLAN["late_save"]:
        save = made._save_rng_state

        def save_late(folder: str) -> None:
            time.sleep(PLAN["late_save"])
            save(folder)

        made._save_rng_state = save_late
    (OUTPUT / f"pid{RANK}-{RESTART}").write_text(str(os.getpid()))
    made.train(resume_from_checkpoint=get_last_checkpoint(str(OUTPUT)))
    digest = hashlib.sha256()
    for weights in made.model.parameters():
        digest.update(weights.detach().contiguous().view(torch.uint8).numpy().tobytes())
    results = {
        "steps": made.state.global_step,
        "weights": digest.hexdigest(),
        "rate": made.optimizer.param_groups[0]["lr"],
    }
    (OUTPUT / f"rank{RANK}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


main()
