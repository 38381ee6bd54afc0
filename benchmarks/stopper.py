"""The time an evaluation waits for the stopper, and a stopper's events a second from the journal.

A real Trainer of a tiny model beside a real broker, shipper and stopper, that evaluates after each
step and waits for the word on it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from benchmarks.table import Row
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.testing import BrokerProcess
from lineside.emitter import LinesideCallback
from lineside.subscribers.stopper.rule_engine import RuleEngine
from lineside.subscribers.stopper.rule_parser import parse_rule
from lineside.subscribers.stopper.state_store import StateStore

EVALUATIONS = 200
STEPS = 50_000
RULE = {"monitor": "eval_loss", "patience": 10_000}


class Timed(LinesideCallback):
    """Keeps how long each evaluation's hook took, in seconds."""

    def on_evaluate(self, *given: Any, **more: Any) -> None:
        started = time.perf_counter()
        super().on_evaluate(*given, **more)
        took.append(time.perf_counter() - started)


took: list[float] = []


def measure() -> list[Row]:
    """Milliseconds an evaluation waits, and events a second that the rules process."""
    took.clear()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        BrokerProcess(Path(folder)),
    ):
        os.environ["LINESIDE_HOME"] = folder
        options = [f"--{name.replace('_', '-')}={value}" for name, value in RULE.items()]
        stopper = subprocess.Popen(
            [sys.executable, "-m", "lineside.cli", "stopper", *options], stderr=subprocess.DEVNULL
        )
        try:
            _train(Path(folder) / "out")
        finally:
            stopper.terminate()
            stopper.wait()
    waited = sorted(1_000 * seconds for seconds in took[1:])  # the first waits for a shipper
    return [
        Row("an evaluation waits for the stopper, p50", statistics.median(waited), "ms", 50),
        Row("the same, p99", waited[int(len(waited) * 0.99)], "ms", 150),
        Row(
            "two rules of a stopper, 5 events a step",
            _rule_rate(),
            "events/s",
            50_000,
            at_least=True,
        ),
    ]


def _train(output: Path) -> None:
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 4
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=2,
        max_steps=EVALUATIONS,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    callback = Timed(wait_for_stopper=60)
    Trainer(
        GPT2LMHeadModel(config),
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[callback],
    ).train()


def _rule_rate() -> float:
    stream = Stream("bench", "rank0", "a1")
    kinds = ("step_begin", "pre_optimizer_step", "optimizer_step", "step_end", "log")
    data = {"logs": {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 1.0}}
    events = [Event(0, 0.0, 0, "train_begin")] + [
        Event(1 + 5 * step + n, 0.0, 0, kind, step, None, 0, data if kind == "log" else None)
        for step in range(STEPS)
        for n, kind in enumerate(kinds)
    ]
    rule_engine = RuleEngine(
        [parse_rule(RULE, "bench"), parse_rule({"not_finite": 1}, "bench")], StateStore()
    )
    started = time.perf_counter()
    for event in events:
        rule_engine.handle(stream, event)
    return len(events) / (time.perf_counter() - started)
