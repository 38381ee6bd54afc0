"""Measures what holding a checkpoint of 50 files adds to a real Trainer's hooks.

One training saves at each step. A callback before Lineside's fills each checkpoint up to 50 files,
and one behind it replaces a file. The same training runs again without holding.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from benchmarks.hooks import Rows
from benchmarks.table import Row, markdown
from lineside.emitter import LinesideCallback

FILES = 50
SAVES = 60
WARM_UP = 10  # saves that do not count


class Fill(TrainerCallback):  # type: ignore[misc]
    """Brings each checkpoint to 50 files before it is held, and times the links alone."""

    def __init__(self) -> None:
        self.microseconds: list[float] = []

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        folder = checkpoint(args, state)
        for index in range(FILES - len(list(folder.iterdir()))):
            (folder / f"model-{index:05}.safetensors").write_bytes(b"shard")
        links, names = folder.with_name("links"), os.listdir(folder)  # noqa: PTH208
        started = time.perf_counter_ns()
        os.mkdir(links)  # noqa: PTH102
        for name in names:
            os.link(f"{folder}/{name}", f"{links}/{name}")
        self.microseconds.append((time.perf_counter_ns() - started) / 1_000)
        shutil.rmtree(links)


class Replace(TrainerCallback):  # type: ignore[misc]
    """Replaces a file after it was held."""

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        draft = checkpoint(args, state) / "draft"
        draft.write_bytes(b"new")
        draft.rename(draft.with_name("model-00000.safetensors"))


class Timed(LinesideCallback):
    """Keeps the microseconds of each on_save and of the hook that follows it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.microseconds = defaultdict[str, list[float]](list)
        self._has_saved = False

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self._has_saved = True
        started = time.perf_counter_ns()
        super().on_save(*args, **kwargs)
        self.microseconds["save"].append((time.perf_counter_ns() - started) / 1_000)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        started = time.perf_counter_ns()
        super().on_step_begin(*args, **kwargs)
        if self._has_saved:
            self._has_saved = False
            self.microseconds["next"].append((time.perf_counter_ns() - started) / 1_000)


def checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def measure() -> list[Row]:
    """Microseconds of on_save and of the next hook, with and without holding."""
    held, free = _times(hold=True), _times(hold=False)
    rows = []
    for hook, what, limit in (
        ("save", f"holding a checkpoint of {FILES} files, added to on_save", 1_000),
        ("next", "looking at it again, added to the next hook", 2_000),
    ):
        with_hold, without = statistics.median(held[hook]), statistics.median(free[hook])
        note = f"{with_hold:,.0f} us, without {without:,.0f} us"
        if hook == "save":
            note += f"; a folder and {FILES} links alone {statistics.median(held['links']):,.0f} us"
        rows.append(Row(f"{what}, p50", with_hold - without, "us", limit, note=note))
    return rows


def _times(*, hold: bool) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LINESIDE_HOME"] = str(Path(folder, "lineside"))
        ours = Timed(run_id=f"hold-{hold}", hold_checkpoints=hold)
        arguments = TrainingArguments(
            output_dir=str(Path(folder, "out")),
            per_device_train_batch_size=2,
            max_steps=SAVES,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=2, n_head=2)
        trainer = Trainer(
            model=GPT2LMHeadModel(config),
            args=arguments,
            train_dataset=Rows(SAVES),
            callbacks=[fill := Fill(), ours, Replace()],
        )
        trainer.train()
        times = {**ours.microseconds, "links": fill.microseconds}
        return {name: values[WARM_UP:] for name, values in times.items()}


if __name__ == "__main__":
    print(markdown(measure()))
