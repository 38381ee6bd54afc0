"""The slowdown of a training loop of 1,000 steps a second by four hooks a step.

A step is a fixed amount of torch work of about a millisecond. Short blocks of steps with the
callback and without take turns, each pair within a fifth of a second, so that what else the
machine does is the same for both; the figure is the median of the pairs' ratios.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from benchmarks.table import Row
from lineside.emitter import LinesideCallback

PAIRS = 150
STEPS = 50
STEP_SECONDS = 0.001
LOGS = {"loss": 2.345678, "grad_norm": 1.23456, "learning_rate": 4.9e-05, "epoch": 0.1234567}


def measure() -> list[Row]:
    """Percent by which the loop is slower with the callback."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LINESIDE_HOME"] = folder
        callback = LinesideCallback(run_id="bench")
        args = TrainingArguments(output_dir=folder, use_cpu=True, report_to="none")
        given = (args, TrainerState(max_steps=PAIRS * STEPS), TrainerControl())
        callback.on_train_begin(*given)
        work, step_seconds = _work()
        ratios = _pairs(work, callback, given)
        callback.on_train_end(*given)
    slower = 100 * (statistics.median(ratios) - 1)
    return [
        Row(
            "a loop of 1,000 steps/s x 4 events, slowed by",
            slower,
            "%",
            2.5,
            note=f"{PAIRS} pairs of {STEPS} steps of {step_seconds * 1e3:.2f} ms",
        )
    ]


def _pairs(
    work: Callable[[], object], callback: LinesideCallback, given: tuple[Any, Any, Any]
) -> list[float]:
    """For each pair of blocks, the time with the callback over the time without."""
    state = given[1]
    ratios = []
    for pair in range(PAIRS):
        took: dict[bool, float] = {}
        for published in (True, False) if pair % 2 else (False, True):
            started = time.perf_counter()
            for _ in range(STEPS):
                if published:
                    state.global_step += 1
                    callback.on_step_begin(*given)
                    work()
                    callback.on_optimizer_step(*given)
                    callback.on_step_end(*given)
                    callback.on_log(*given, logs=LOGS)
                else:
                    work()
            took[published] = time.perf_counter() - started
        ratios.append(took[True] / took[False])
    return ratios


def _work() -> tuple[Callable[[], object], float]:
    """Work of about ``STEP_SECONDS``, and its duration."""
    left, right = torch.rand(64, 64), torch.rand(64, 64)

    def seconds(repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right)
        return time.perf_counter() - started

    seconds(1_000)
    each = statistics.median(seconds(100) for _ in range(50)) / 100
    repeats = max(1, round(STEP_SECONDS / each))
    return lambda: seconds(repeats), each * repeats
