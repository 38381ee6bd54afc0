"""Measures the callback's cost in the hooks of a real Trainer's steps.

The Trainer trains a GPT-2 of two layers with an accumulation of two and a log at each step. Each
step calls six hooks: step_begin, substep_end, pre_optimizer_step, optimizer_step, step_end and log.
After a backward pass the CPU's caches hold nothing of a callback, so only a real training shows
the cost.

Several callbacks take turns in one training: Lineside's; an empty one, which shows the cost of a
call; one that packs and writes each event and does nothing else; and Trackio's, if it is installed,
which works in on_log only. A turn is a few steps, and its first step does not count: the caches
hold what the callback before it used, as they never do where one callback has every step.
"""

from __future__ import annotations

import os
import statistics
import sys
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
from transformers.integrations import TrackioCallback

from benchmarks.table import Row, markdown
from lineside.bus.protocol.wire import HEADER
from lineside.emitter import LinesideCallback

TURNS = 400  # of each callback
WARM_UP = 20  # turns that do not count
TURN_STEPS = 5
HOOKS = ("step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end", "log")
TRACKIO_ON_LOG = 42.0  # us, p50, measured once where it was alone


class Turns(TrainerCallback):  # type: ignore[misc]
    """Lets ``callbacks`` take turns and keeps the nanoseconds that each hook took."""

    def __init__(self, callbacks: dict[str, TrainerCallback]) -> None:
        self.callbacks = callbacks
        self.nanoseconds = {name: defaultdict[str, list[int]](list) for name in callbacks}
        self._names = list(callbacks)
        self._step = -1
        self._begin_step()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        for callback in self.callbacks.values():
            callback.on_train_begin(*args, **kwargs)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        for callback in self.callbacks.values():
            callback.on_train_end(*args, **kwargs)

    def microseconds(self, name: str, *hooks: str) -> list[float]:
        """Microseconds that ``hooks`` of ``name`` took together, for each step that counts."""
        first = WARM_UP * (TURN_STEPS - 1)
        times = [self.nanoseconds[name][hook][first:] for hook in hooks]
        return [sum(step) / 1_000 for step in zip(*times, strict=True)]

    def _begin_step(self) -> None:
        self._step += 1
        turn, step_of_turn = divmod(self._step, TURN_STEPS)
        name = self._names[turn % len(self._names)]
        self._callback = self.callbacks[name]
        self._times = defaultdict(list) if step_of_turn == 0 else self.nanoseconds[name]


def _timed(kind: str) -> Callable[..., None]:
    name = f"on_{kind}"

    def hook(self: Turns, *args: Any, **kwargs: Any) -> None:
        call = getattr(self._callback, name)
        started = time.perf_counter_ns()
        call(*args, **kwargs)
        self._times[kind].append(time.perf_counter_ns() - started)
        if kind == HOOKS[-1]:
            self._begin_step()

    return hook


class Least(TrainerCallback):  # type: ignore[misc]
    """Packs, checksums and writes each event, and does nothing else."""

    def __init__(self, file: Path) -> None:
        self.fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.pack = msgpack.Packer().pack
        self.seq = 0


def _least(kind: str) -> Callable[..., None]:
    header, now, wall = HEADER.pack, time.monotonic_ns, time.time

    def hook(self: Least, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        self.seq += 1
        data = {"logs": kwargs["logs"]} if "logs" in kwargs else None
        fields = (1, self.seq, wall(), now(), kind, state.global_step, state.epoch, 0, data)
        body = self.pack(fields)
        os.write(self.fd, header(len(body), crc32(body)) + body)

    return hook


for _kind in HOOKS:
    setattr(Least, f"on_{_kind}", _least(_kind))
    setattr(Turns, f"on_{_kind}", _timed(_kind))


class Rows(torch.utils.data.Dataset[Any]):  # type: ignore[misc]
    """Rows of 8 tokens, four for each step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return 4 * self.steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = torch.arange(8) + index % 16
        return {"input_ids": row, "labels": row}


def measure() -> list[Row]:
    """Microseconds of a step's hooks together, and of on_log alone."""
    with tempfile.TemporaryDirectory() as folder:
        turns = Turns(_callbacks(Path(folder)))
        _train(Path(folder), turns, steps=TURNS * TURN_STEPS * len(turns.callbacks))
    together = turns.microseconds("lineside", *HOOKS)
    p50 = statistics.median(together)
    p999 = sorted(together)[int(len(together) * 0.999)]
    empty, least = (statistics.median(turns.microseconds(n, *HOOKS)) for n in ("empty", "least"))
    log = statistics.median(turns.microseconds("lineside", "log"))
    what = "all 6 hooks of a step"
    rows = [
        Row(f"{what} with a log, p50", p50, "us", 30, note=f"an empty callback {empty:.1f} us"),
        Row(f"{what}, p99.9", p999, "us", 6 * 200),
        Row("on_log alone, p50", log, "us", TRACKIO_ON_LOG, note="limit: Trackio's"),
        _ratio(f"{what} against packing and writing them, p50", p50, least, 1.6),
    ]
    if "trackio" in turns.callbacks:
        trackio = statistics.median(turns.microseconds("trackio", "log"))
        rows.append(_ratio(f"{what} against Trackio's on_log, p50", p50, trackio, 1))
    return rows


def _ratio(what: str, ours: float, theirs: float, limit: float) -> Row:
    return Row(what, ours / theirs, "x", limit, note=f"{ours:.1f} us, {theirs:.1f} us")


def _callbacks(folder: Path) -> dict[str, TrainerCallback]:
    """The callbacks that take turns, each with files in ``folder``."""
    os.environ["LINESIDE_HOME"] = str(folder / "lineside")
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")
    callbacks = {
        "empty": TrainerCallback(),
        "lineside": LinesideCallback(run_id="bench"),
        "least": Least(folder / "least"),
    }
    try:
        callbacks["trackio"] = TrackioCallback()
    except RuntimeError:
        print("hooks: no ratio to Trackio; pip install trackio==0.43.0 for it", file=sys.stderr)
    return callbacks


def _train(folder: Path, callback: TrainerCallback, steps: int) -> None:
    torch.set_num_threads(1)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=steps,
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
        train_dataset=Rows(steps),
        callbacks=[callback],
    )
    trainer.remove_callback(type(trainer.callback_handler.callbacks[-1]))  # the printer
    trainer.train()


if __name__ == "__main__":
    print(markdown(measure()))
