"""Trains a tiny model with Lineside's callback and a witness beside it, and writes what it saw.

Run as a script: ``truth_train.py SCENARIO OUTPUT_FOLDER WITNESS_FILE``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import CONTROL_BITS
from lineside.emitter import LinesideCallback

STATE_SCALARS = ("max_steps", "num_train_epochs", "total_flos", "best_metric")


class Witness(TrainerCallback):
    """Writes down every hook as it is called, in the training process itself."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def record(self, kind: str, state: Any, control: Any, given: dict[str, Any]) -> None:
        self.seen.append(
            {
                "kind": kind,
                "step": state.global_step,
                "epoch": state.epoch,
                "control": sum(
                    getattr(control, name) << bit for bit, name in enumerate(CONTROL_BITS)
                ),
                "logs": dict(given["logs"]) if "logs" in given else None,
                "metrics": dict(given["metrics"]) if "metrics" in given else None,
                "state": {name: getattr(state, name) for name in STATE_SCALARS},
            }
        )


def _hook(kind: str) -> Any:
    def hook(self: Witness, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.record(kind, state, control, given)

    return hook


for _kind in LIFECYCLE_KINDS:
    setattr(Witness, f"on_{_kind}", _hook(_kind))


class Tokens(torch.utils.data.Dataset):
    """Random tokens, made on the spot."""

    def __init__(self, rows: int) -> None:
        generator = torch.Generator().manual_seed(rows)
        self.rows = torch.randint(0, 32, (rows, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Diverging(Trainer):
    """Logs what a bad day logs: a NaN and both infinities, one at a time."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        odd = {3: math.nan, 6: math.inf, 9: -math.inf}.get(self.state.global_step)
        if odd is not None and "loss" in logs:
            logs["loss"] = odd
        super().log(logs, *args, **kwargs)


def trainer(output: Path, witness: Witness, **changes: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": 2,
        "max_steps": 12,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    return Diverging(
        model=model,
        args=TrainingArguments(**(arguments | changes)),
        train_dataset=Tokens(48),
        eval_dataset=Tokens(6),
        callbacks=[witness, LinesideCallback()],
    )


def steps(output: Path, witness: Witness) -> None:
    """Accumulation, evaluation and saving by steps, the best model kept, then predict."""
    run = trainer(
        output,
        witness,
        gradient_accumulation_steps=3,
        save_total_limit=1,
        load_best_model_at_end=True,
        eval_on_start=True,
    )
    run.train()
    run.evaluate()
    run.predict(Tokens(4))


def epochs(output: Path, witness: Witness) -> None:
    """Everything by epochs."""
    run = trainer(
        output,
        witness,
        max_steps=-1,
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
    )
    run.train()


def twice(output: Path, witness: Witness) -> None:
    """Two calls of train() on one Trainer."""
    run = trainer(output, witness, max_steps=5)
    run.train()
    run.train()


def resume(output: Path, witness: Witness) -> None:
    """Go on from the newest checkpoint in ``output``."""
    trainer(output, witness, max_steps=16).train(resume_from_checkpoint=True)


def evaluate_only(output: Path, witness: Witness) -> None:
    """Evaluation and prediction with no training at all."""
    run = trainer(output, witness)
    run.evaluate()
    run.predict(Tokens(4))


if __name__ == "__main__":
    scenario, folder, witness_file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    seen_by = Witness()
    {f.__name__: f for f in (steps, epochs, twice, resume, evaluate_only)}[scenario](
        folder, seen_by
    )
    witness_file.write_text(json.dumps(seen_by.seen))
