"""Synthetic runs, recorded through the Writer, for tests and for viewing the pages."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.store.recording.writer import Writer

JOURNAL = "synthetic"


class Feeder:
    """Passes batches to a writer with offsets of one journal."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.offset = writer.offset(JOURNAL)
        self._seqs: dict[Stream, int] = {}

    def feed(self, stream: Stream, events: list[Event], gaps: tuple[Gap, ...] = ()) -> None:
        """Record ``events``, which follow one another."""
        batches = []
        for start in range(0, max(len(events), 1), 256):
            self.offset += 1
            part = tuple(events[start : start + 256])
            batches.append(Batch(self.offset, stream, part, gaps if not start else ()))
        self.writer.apply(JOURNAL, batches)

    def record(
        self,
        stream: Stream,
        kind: str,
        at: float,
        step: int = 0,
        data: Any = None,
        epoch: Any = None,
    ) -> None:
        """Record one event now."""
        self.feed(stream, [self.event(stream, kind, at, step, data, epoch)])

    def next_seq(self, stream: Stream) -> int:
        """The seq of the stream's next event, which is the number of events emitted."""
        return self._seqs.get(stream, 0)

    def event(
        self,
        stream: Stream,
        kind: str,
        at: float,
        step: int = 0,
        data: Any = None,
        epoch: Any = None,
    ) -> Event:
        """The next event of a stream."""
        seq = self.next_seq(stream)
        self._seqs[stream] = seq + 1
        return Event(seq, at, int(at * 1e9), kind, step, epoch, 0, data)

    def skip(self, stream: Stream, count: int) -> Gap:
        """Leave out the next ``count`` events of a stream."""
        first = self.next_seq(stream)
        self._seqs[stream] = first + count
        return Gap(stream, first, first + count)


@dataclass
class Training:
    """A synthetic training: falling loss, spikes in waits, evaluations and checkpoints."""

    run: str
    name: str
    began: float
    steps: int = 2000
    upto: int | None = None
    project: str = "stdlib-lm"
    attempt: str = "20261121T082653-4f2a"
    resumed: tuple[str, int] | None = None
    log_every: int = 10
    eval_every: int = 200
    save_every: int = 400
    step_seconds: float = 0.09
    seed: int = 1
    nan_at: frozenset[int] = frozenset()
    ranks: int = 1
    source: str = "trainer"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stream(self) -> Stream:
        return Stream(self.run, "rank0", self.attempt)

    def begin(self, feeder: Feeder) -> None:
        """Record the events before the first step."""
        feeder.feed(
            self.stream,
            [
                feeder.event(self.stream, "run_start", self.began, data=self.facts()),
                feeder.event(self.stream, "init_end", self.began + 0.01),
                feeder.event(
                    self.stream,
                    "train_begin",
                    self.began + 0.4,
                    data={"state": {"max_steps": self.steps, "num_train_epochs": 3}},
                ),
            ],
        )

    def train(self, feeder: Feeder, first: int | None = None, last: int | None = None) -> float:
        """Record steps ``first`` to ``last``; the time at which the last one ends."""
        first = (self.resumed[1] + 1 if self.resumed else 1) if first is None else first
        last = (self.upto or self.steps) if last is None else last
        events: list[Event] = []
        clock = self.began + 0.5 + (first - 1) * self.step_seconds * 1.15
        for step in range(first, last + 1):
            clock = self._step(feeder, step, clock, events)
        feeder.feed(self.stream, events)
        return clock

    def end(self, feeder: Feeder, at: float, how: str = "exit", error: Any = None) -> None:
        """Record the end; with an ``error`` there is no train_end."""
        step = self.upto or self.steps
        events = []
        if error is None:
            summary = {
                "train_runtime": at - self.began,
                "train_samples_per_second": 812.4,
                "train_steps_per_second": step / (at - self.began),
                "total_flos": 41_231_232_000_000.0,
                "train_loss": 2.4121,
                "epoch": 3.0,
            }
            events.append(feeder.event(self.stream, "log", at, step, {"logs": summary}, 3.0))
            events.append(feeder.event(self.stream, "train_end", at, step, {"state": {}}, 3.0))
        counters = {
            "emitted": feeder.next_seq(self.stream) + 1,
            "dropped": 0,
            "hook_errors": 0,
            "encode_failures": 0,
            "hook_ns": step * 6 * 4100,
            "hooks": step * 6,
        }
        data = {"how": how, "error": error, "counters": counters}
        feeder.feed(self.stream, [*events, feeder.event(self.stream, "run_end", at, step, data)])

    def heartbeat(self, feeder: Feeder, at: float, step: int, **changed: Any) -> None:
        """Record a heartbeat of the shipper."""
        emitted = feeder.next_seq(self.stream)
        stream = Stream(self.run, "shipper", self.attempt)
        data = {
            "producer": "rank0",
            "attempt": self.attempt,
            "rank": 0,
            "pid": 4711,
            "host": "atelier",
            "step": step,
            "phase": "training",
            "hook_age": 0.02,
            "rss": 812_000_000,
            "emitted": emitted,
            "dropped": 0,
            "hook_errors": 0,
            "hook_ns": step * 6 * 4100,
            "hooks": step * 6,
            "acked": emitted,
            **changed,
        }
        feeder.record(stream, "heartbeat", at, step, data)

    def _step(self, feeder: Feeder, step: int, clock: float, events: list[Event]) -> float:
        noise = random.Random(self.seed * 1_000_003 + step)
        epoch = round(3 * step / self.steps, 4)

        def record(kind: str, data: Any = None, at_step: int = step) -> None:
            events.append(feeder.event(self.stream, kind, clock, at_step, data, epoch))

        record("step_begin", at_step=step - 1)
        clock += self.step_seconds * (0.9 + 0.2 * noise.random())
        record("pre_optimizer_step")
        clock += self.step_seconds * 0.02
        record("optimizer_step")
        record("step_end")
        pause = 0.9 if noise.random() < 0.01 else 0.06 * noise.random()
        clock += self.step_seconds * (0.05 + pause)
        if step % self.log_every == 0:
            record("log", {"logs": self.logs(step, noise)})
        if step % self.eval_every == 0:
            clock += 8 * self.step_seconds
            metrics = self.evaluation(step, noise)
            record("log", {"logs": metrics})
            record("evaluate", {"metrics": metrics, "state": {}})
        if step % self.save_every == 0:
            clock += 3 * self.step_seconds
            record("save", {"checkpoint": f"/data/{self.run}/checkpoint-{step}", "state": {}})
        return clock

    def logs(self, step: int, noise: random.Random) -> dict[str, float]:
        spike = 1.6 if step % 730 == 0 else 0.0
        loss = 1.9 + 3.6 * math.exp(-step / 320) + noise.gauss(0, 0.05) + spike
        warm, rest = self.steps * 0.05, self.steps * 0.95
        scale = step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / rest))
        return {
            "loss": math.nan if step in self.nan_at else loss,
            "grad_norm": abs(noise.gauss(0.9, 0.25)) + 4 * math.exp(-step / 80),
            "learning_rate": 6e-4 * scale,
            "epoch": round(3 * step / self.steps, 4),
            **self.extra,
        }

    def evaluation(self, step: int, noise: random.Random) -> dict[str, float]:
        loss = 2.0 + 3.3 * math.exp(-step / 330) + noise.gauss(0, 0.01)
        return {
            "eval_loss": loss,
            "eval_accuracy": 0.62 - 0.12 * loss / 5,
            "eval_runtime": 0.71 + noise.random() * 0.1,
            "eval_samples_per_second": 1423.1 + noise.gauss(0, 20),
            "epoch": round(3 * step / self.steps, 4),
        }

    def facts(self) -> dict[str, Any]:
        """The data of run_start."""
        return {
            "name": self.name,
            "project": self.project,
            "producer": "rank0",
            "rank": 0,
            "local_rank": 0,
            "world_size": self.ranks,
            "process": {
                "pid": 4711,
                "host": "atelier",
                "argv": ["examples/train_gpt2.py", "--steps", str(self.steps)],
                "executable": "/usr/bin/python3",
                "cwd": "/home/ada/stdlib-lm",
                "python": "3.11.9",
            },
            "versions": {
                "lineside": "0.1.0",
                "transformers": "5.23.0",
                "torch": "2.13.0+cpu",
                "accelerate": "1.12.0",
            },
            "args": ARGUMENTS,
            "model": {
                "class": "GPT2LMHeadModel",
                "parameters": 412_160,
                "trainable_parameters": 412_160,
                "config": {
                    "model_type": "gpt2",
                    "vocab_size": 256,
                    "n_positions": 256,
                    "n_embd": 96,
                    "n_layer": 3,
                    "n_head": 4,
                    "activation_function": "gelu_new",
                    "resid_pdrop": 0.1,
                    "bos_token_id": None,
                },
            },
            "loaders": {"train": {"length": 667, "batch_size": 16}},
            "source": self.source,
            "resumed_from": {"attempt": self.resumed[0], "step": self.resumed[1]}
            if self.resumed
            else None,
        }


ARGUMENTS = {
    "output_dir": "/data/tiny-gpt2",
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "learning_rate": 6e-4,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "num_train_epochs": 3.0,
    "max_steps": 2000,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.05,
    "logging_steps": 10,
    "eval_strategy": "steps",
    "eval_steps": 200,
    "save_steps": 400,
    "save_total_limit": 3,
    "seed": 42,
    "bf16": False,
    "hub_token": "<redacted>",
    "report_to": [],
    "run_name": None,
    "accelerator_config": {"split_batches": False, "dispatch_batches": None, "even_batches": True},
    "optim": "adamw_torch",
    "dataloader_num_workers": 2,
    "metric_for_best_model": "eval_loss",
    "load_best_model_at_end": False,
}
