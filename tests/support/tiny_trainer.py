"""A Trainer that trains in a tenth of a second, and a log of every hook it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import CONTROL_BITS


class Tokens(torch.utils.data.Dataset[Any]):
    """Rows of counting tokens."""

    def __init__(self, rows: int = 24) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.arange(8) + index % 16
        return {"input_ids": row, "labels": row}


STATE_SCALARS = ("max_steps", "num_train_epochs", "total_flos", "best_metric")


class HookLog(TrainerCallback):
    """Records every hook, with what ``look()`` returns at that moment."""

    def __init__(self, look: Any = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.look = look

    def note(self, kind: str, state: Any, control: Any, given: dict[str, Any]) -> None:
        note = {
            "kind": kind,
            "step": state.global_step,
            "epoch": state.epoch,
            "control": sum(getattr(control, name) << bit for bit, name in enumerate(CONTROL_BITS)),
            "logs": dict(given["logs"]) if "logs" in given else None,
            "metrics": dict(given["metrics"]) if "metrics" in given else None,
            "state": {name: getattr(state, name) for name in STATE_SCALARS},
            "best_metric": state.best_metric,
            "total_flos": state.total_flos,
        }
        if self.look is not None:
            note["look"] = self.look()
        self.seen.append(note)


def _hook(kind: str) -> Any:
    def hook(self: HookLog, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.note(kind, state, control, given)

    return hook


for _kind in LIFECYCLE_KINDS:
    setattr(HookLog, f"on_{_kind}", _hook(_kind))


def model() -> GPT2LMHeadModel:
    """A GPT-2 of a few hundred parameters."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    config.loss_type = "ForCausalLM"
    return GPT2LMHeadModel(config)


def trainer(
    output: Path, *callbacks: TrainerCallback, kind: type[Trainer] = Trainer, **changes: Any
) -> Trainer:
    """A Trainer of 4 steps that logs each of them; ``changes`` to its arguments."""
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return kind(
        model=model(),
        args=TrainingArguments(**(arguments | changes)),
        train_dataset=Tokens(),
        eval_dataset=Tokens(6),
        callbacks=list(callbacks),
    )
