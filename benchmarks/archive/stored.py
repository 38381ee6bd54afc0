"""What ten checkpoints of a training take in an archive, against what training saved.

Real Trainers on a small random model with a tokenizer of 32,000 words: one trains all weights, one
a LoRA adapter, where peft is installed (it slows each import of a Trainer). What an archive stores
less is what checkpoints share: the tokenizer and the configuration. Weights and optimizer differ at
each step.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.table import Row
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts
from lineside.store.archive.source_file import of_folder
from tests.support.tiny_trainer import Tokens

CHECKPOINTS = 10
_WORDS = 32_000
_MOST = 100.0
_MB = 1e6


def measure() -> list[Row]:
    """Bytes in the archive after ten checkpoints, in percent of the bytes that were saved."""
    rows = [_row("a run that trains all", is_lora=False)]
    if find_spec("peft") is None:
        print(" without the row on LoRA: pip install peft", end="", file=sys.stderr)
    else:
        rows.append(_row("a LoRA run", is_lora=True))
    return rows


def _row(name: str, *, is_lora: bool) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        _train(Path(folder) / "run", is_lora)
        archive = open_archive(ArchiveLocation(f"{folder}/archive"))
        saved = 0
        for step in range(1, CHECKPOINTS + 1):
            checkpoint = Path(folder) / "run" / f"checkpoint-{step}"
            facts = CheckpointFacts("bench", "1", step, str(checkpoint), float(step))
            _, _, written = archive.write_checkpoint(
                facts, of_folder(checkpoint), lambda _: None, threading.Event()
            )
            saved += written.bytes
        files = [file for file in Path(folder, "archive").rglob("*") if file.is_file()]
        stored = sum(file.stat().st_size for file in files)
    return Row(
        f"{CHECKPOINTS} checkpoints of {name}: stored of what was saved",
        100 * stored / saved,
        "%",
        _MOST,
        note=f"{stored / _MB:,.1f} of {saved / _MB:,.1f} MB, manifests included",
    )


def _train(folder: Path, is_lora: bool) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=_WORDS, n_positions=64, n_embd=64, n_layer=4, n_head=4)
    model: Any = GPT2LMHeadModel(config)
    if is_lora:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(model, adapter)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=CHECKPOINTS,
        save_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(
        model,
        args,
        data_collator=default_data_collator,
        train_dataset=Tokens(),
        processing_class=_tokenizer(),
    ).train()


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {f"word{number}": number for number in range(_WORDS - 1)}
    tokenizer = Tokenizer(models.WordLevel({**words, "[UNK]": _WORDS - 1}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")  # noqa: S106
