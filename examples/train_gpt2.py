"""Train a byte-level GPT-2 on the Python standard library's source, with Lineside's callback.

    python examples/train_gpt2.py --output /tmp/gpt2 --seconds 90

Everything here is an ordinary script for the Hugging Face ``Trainer``; the one line that is
Lineside's is ``callbacks=[LinesideCallback()]``. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from lineside.emitter import LinesideCallback

BLOCK = 128  # bytes the model sees at once
BATCH = 8
ACCUMULATION = 2
EVALUATIONS = 8  # evaluations, and checkpoints, in a run


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """Consecutive blocks of ``BLOCK`` bytes; the model is asked for each next byte."""

    def __init__(self, text: bytes, limit: int | None = None) -> None:
        whole = len(text) // BLOCK
        self._blocks = torch.frombuffer(bytearray(text[: whole * BLOCK]), dtype=torch.uint8)
        self._blocks = self._blocks.view(whole, BLOCK)
        if limit is not None and limit < whole:  # spread over all of it
            self._blocks = self._blocks[:: whole // limit][:limit]

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self._blocks[index].long()
        return {"input_ids": block, "labels": block}


def sources() -> tuple[bytes, bytes]:
    """Text to train on and text to validate with: every tenth file is for validation."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_bytes() for file in files]
    train = b"".join(text for number, text in enumerate(texts) if number % 10)
    return train, b"".join(texts[::10])


def tiny_gpt2() -> GPT2LMHeadModel:
    """A GPT-2 of about 370,000 parameters, one token a byte."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=256,
            n_positions=BLOCK,
            n_embd=96,
            n_layer=3,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    model.loss_type = "ForCausalLM"  # transformers warns if it cannot infer it
    return model


def steps_in(seconds: float, model: GPT2LMHeadModel, data: Blocks) -> int:
    """How many optimizer steps fit into ``seconds`` on this machine, from a few timed ones."""
    batch = torch.stack([data[index]["input_ids"] for index in range(BATCH)])
    times = []
    for _ in range(25):
        started = time.perf_counter()
        model(input_ids=batch, labels=batch).loss.backward()
        model.zero_grad()
        times.append(time.perf_counter() - started)
    once = sorted(times[5:])[10]  # the first ones warm up
    # The optimizer, evaluations and checkpoints take about a third of that again.
    return max(2 * EVALUATIONS, int(seconds / (once * ACCUMULATION * 1.35)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a byte-level GPT-2 on Python's own source.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--seconds", type=float, default=90, help="about how long to train")
    parser.add_argument("--max-steps", type=int, help="optimizer steps, instead of --seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)

    set_seed(options.seed)
    # So small a model gains little from a second thread, and loses much when cores are shared.
    torch.set_num_threads(1)
    train, validation = sources()
    data = Blocks(train)
    model = tiny_gpt2()
    max_steps = options.max_steps or steps_in(options.seconds, model, data)
    every = max(1, max_steps // EVALUATIONS)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.output),
            max_steps=max_steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=2 * BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=max_steps // 20,
            weight_decay=0.01,
            logging_steps=5,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            report_to="none",
            use_cpu=True,  # where its steps were timed; small enough not to need more
            dataloader_pin_memory=False,
            disable_tqdm=not sys.stderr.isatty(),
            seed=options.seed,
        ),
        train_dataset=data,
        eval_dataset=Blocks(validation, limit=128),
        callbacks=[LinesideCallback()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
