"""Train a tiny model in several processes. It does not use Lineside.

    lineside run -- torchrun --nproc-per-node 2 examples/torchrun_regression.py --output /tmp/ddp

Each process is one rank of the job, on CPU, where gloo carries the gradients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainingArguments, set_seed


class Regression(nn.Module):
    """Two layers and a squared error, answering as a Transformers model does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        guess = self.layers(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(guess, labels), "logits": guess}


def collate(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    x, y = zip(*rows, strict=True)
    return {"x": torch.stack(x), "labels": torch.stack(y)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the sine of a sum in several processes.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--max-steps", type=int, default=200)
    options = parser.parse_args()

    set_seed(1)
    x = torch.randn(4096, 8)
    y = torch.sin(x[:, 0] + x[:, 1])
    trainer = Trainer(
        model=Regression(8),
        args=TrainingArguments(
            output_dir=str(options.output),
            max_steps=options.max_steps,
            per_device_train_batch_size=32,
            learning_rate=1e-2,
            logging_steps=10,
            eval_strategy="steps",
            eval_steps=max(1, options.max_steps // 4),
            save_steps=max(1, options.max_steps // 4),
            save_total_limit=2,
            report_to="none",
            use_cpu=True,
            ddp_find_unused_parameters=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        train_dataset=TensorDataset(x[256:], y[256:]),
        eval_dataset=TensorDataset(x[:256], y[:256]),
        data_collator=collate,
    )
    trainer.train()


if __name__ == "__main__":
    main()
