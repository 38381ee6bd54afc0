"""What the callback costs in the hooks of a real Trainer's steps.

A GPT-2 of two layers, an accumulation of two and a log at each step: step_begin, substep_end,
pre_optimizer_step, optimizer_step, step_end and log. Each hook is timed where the Trainer calls it,
beside an empty callback's, whose time is the price of being called at all, and the least that puts
each event into a file: after a backward pass everything is cold, whoever runs.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from benchmarks.table import Row, markdown
from lineside.bus.protocol.wire import HEADER
from lineside.emitter import LinesideCallback

STEPS = 2_000
WARM_UP = 100
HOOKS = ("step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end", "log")
TRACKIO_ON_LOG = 42.0  # us, p50, on the machine of FACTS


class Timed(TrainerCallback):  # type: ignore[misc]
    """Calls ``inner`` as the Trainer would, and keeps how long each hook took, in ns."""

    def __init__(self, inner: TrainerCallback) -> None:
        self.inner = inner
        self.took: dict[str, list[int]] = defaultdict(list)


def _timed(kind: str) -> Callable[..., None]:
    name = f"on_{kind}"

    def hook(self: Timed, *given: Any, **more: Any) -> None:
        call = getattr(self.inner, name)
        started = time.perf_counter_ns()
        call(*given, **more)
        self.took[kind].append(time.perf_counter_ns() - started)

    return hook


class Least(TrainerCallback):  # type: ignore[misc]
    """Packs, checksums and writes each event, and does nothing besides."""

    def __init__(self, file: Path) -> None:
        self.fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.pack = msgpack.Packer().pack
        self.seq = 0


def _least(kind: str) -> Callable[..., None]:
    header, now, wall = HEADER.pack, time.monotonic_ns, time.time

    def hook(self: Least, _args: Any, state: Any, _control: Any, **more: Any) -> None:
        self.seq += 1
        data = {"logs": more["logs"]} if "logs" in more else None
        fields = (1, self.seq, wall(), now(), kind, state.global_step, state.epoch, 0, data)
        body = self.pack(fields)
        os.write(self.fd, header(len(body), crc32(body)) + body)

    return hook


for _kind in HOOKS:
    setattr(Least, f"on_{_kind}", _least(_kind))
for _kind in (*HOOKS, "train_begin", "train_end"):
    setattr(Timed, f"on_{_kind}", _timed(_kind))


class Rows(torch.utils.data.Dataset[Any]):  # type: ignore[misc]
    """Rows of 8 tokens."""

    def __len__(self) -> int:
        return 4 * STEPS

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.arange(8) + index % 16
        return {"input_ids": row, "labels": row}


def measure() -> list[Row]:
    """Microseconds of a step's hooks together, and of on_log alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LINESIDE_HOME"] = folder
        ours, empty = Timed(LinesideCallback(run_id="bench")), Timed(TrainerCallback())
        least = Timed(Least(Path(folder) / "least"))
        _train(Path(folder), empty, ours)
        _train(Path(folder), empty, least)
    together = [sum(times) / 1_000 for times in zip(*_steps(ours), strict=True)]
    alone = [sum(times) / 1_000 for times in zip(*_steps(least), strict=True)]
    called = [sum(times) / 1_000 for times in zip(*_steps(empty), strict=True)]
    log = [nanoseconds / 1_000 for nanoseconds in ours.took["log"][WARM_UP:STEPS]]
    beside = (
        f"an empty callback's {statistics.median(called):.1f} us, "
        f"packing and writing alone {statistics.median(alone):.1f} us"
    )
    tail = sorted(together)[int(len(together) * 0.999)]
    return [
        Row(
            "all 6 hooks of a step with a log, p50",
            statistics.median(together),
            "us",
            30,
            note=beside,
        ),
        Row("all 6 hooks of a step, p99.9", tail, "us", 6 * 200),
        Row(
            "on_log alone, p50",
            statistics.median(log),
            "us",
            TRACKIO_ON_LOG,
            note="limit: Trackio's",
        ),
    ]


def _steps(timed: Timed) -> list[list[int]]:
    return [timed.took[kind][WARM_UP:STEPS] for kind in HOOKS]


def _train(folder: Path, *callbacks: TrainerCallback) -> None:
    torch.set_num_threads(1)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=Rows(),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(type(trainer.callback_handler.callbacks[-1]))  # the printer
    trainer.train()


if __name__ == "__main__":
    print(markdown(measure()))
