"""A Trainer whose checkpoints hold secrets: ``archived_secrets_train.py VALUES OUTPUT``.

``VALUES`` is a file of one JSON list of values for each place of a checkpoint.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import Tokens, model

places = json.loads(Path(sys.argv[1]).read_text())


@dataclass
class Arguments(TrainingArguments):
    """A script's own arguments."""

    wandb_api_key: str = ""
    settings: list[Any] = field(default_factory=list)


class Writes(TrainerCallback):
    """Logs secrets, and writes its settings into each checkpoint after Lineside has linked it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            state.log_history += [{"sample": value, "step": 1} for value in places["state"]]

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        (folder / "args.json").write_text(json.dumps(places["json"], indent=2))
        (folder / "run.yaml").write_text(f"api_key: {places['yaml'][0]}\nlr: 1\n")


arguments = Arguments(
    output_dir=sys.argv[2],
    hub_token=places["hub"][0],
    wandb_api_key=places["hub"][1],
    settings=places["arguments"],
    max_steps=3,
    save_strategy="steps",
    save_steps=1,
    save_total_limit=1,
    per_device_train_batch_size=2,
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
)
Trainer(
    model=model(),
    args=arguments,
    train_dataset=Tokens(),
    callbacks=[LinesideCallback(run_id="planted"), Writes()],
).train()
