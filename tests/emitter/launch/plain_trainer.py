"""A training script without Lineside: ``plain_trainer.py OUTPUT [EXIT_CODE]``."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class Tokens(torch.utils.data.Dataset[Any]):
    """Rows of counting tokens."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.arange(8) + index % 16
        return {"input_ids": row, "labels": row}


def main() -> None:
    """Train four steps."""
    torch.set_num_threads(1)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    arguments = TrainingArguments(
        output_dir=sys.argv[1],
        max_steps=4,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=Tokens()).train()


if __name__ == "__main__":
    main()
    sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
