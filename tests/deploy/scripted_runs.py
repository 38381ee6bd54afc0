"""Runs whose events a test publishes as a training would, healthy and faulty ones."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lineside.bus.client.producer import Producer, ProducerConnection

TICK_SECONDS = 0.2
"""The time from one call of ``tick`` to the next."""
_BEAT_TICKS = 5


class ScriptedRun:
    """A run that makes a step in each tick, on a machine of its own with one GPU.

    Its project, its machine and its name are ``name``. Tests change the attributes: ``step_ticks``
    and ``wait_ticks`` are the ticks that a step and the wait before the next one take.
    """

    def __init__(self, connection: ProducerConnection, name: str) -> None:
        self.name = name
        self.step = 0
        self.step_ticks, self.wait_ticks = 1, 0
        self.save_steps = 10_000
        self.phase, self.hook_age = "training", 0.01
        self.is_silent, self.unsent = False, 0
        self.loss: Callable[[], float] = lambda: 2.0 + random.random()
        self.machine: dict[str, float] = {}
        self._attempts = itertools.count(1)
        self._ticks = itertools.count()
        self._connection = connection
        self._producers: dict[str, Producer] = {}
        self.start()

    def start(self) -> None:
        """Begin an attempt."""
        self.attempt = f"a{next(self._attempts)}"
        self.is_training, self._left = True, 0
        self.emit(
            "rank0",
            "run_start",
            name=f"run {self.name}",
            project=self.name,
            process={"host": self.name},
        )
        self.emit("rank0", "train_begin", state={"max_steps": 100_000})

    def emit(self, producer: str, kind: str, /, **data: Any) -> None:
        """Publish an event at the present step."""
        key = f"{self.name}/{producer}/{self.attempt}"
        if key not in self._producers:
            self._producers[key] = Producer(self._connection.address, key, self._connection)
        self._producers[key].emit(kind, step=self.step, data=data)
        self._producers[key].drop_acked()

    def copy(self, state: str) -> None:
        """Report the state of the run's one checkpoint for the archive."""
        path = f"/{self.name}/checkpoint-1"
        data = {"checkpoint": path, "attempt": self.attempt, "step": 1, "state": state}
        self.emit("archiver", "checkpoint_state", **data, bytes=8, sent=8)

    def lose_events(self, count: int) -> None:
        """Leave a hole in the events of rank 0."""
        self._producers[f"{self.name}/rank0/{self.attempt}"].skip(count)

    def end(self) -> None:
        """Train no more."""
        self.is_training = False

    def tick(self) -> None:
        """What the run publishes in ``TICK_SECONDS``."""
        number = next(self._ticks)
        if self.is_silent:
            return
        if self.is_training and self.phase == "training" and self.hook_age < 1:
            self._train()
        elif self.phase == "evaluating":
            self.emit("rank0", "prediction_step")
        if number % _BEAT_TICKS == 0:
            if self.is_training:
                self._beat()
            if self.machine:
                self.emit(f"sampler-{self.name}", "metrics", metrics=self.machine)

    def save(self) -> None:
        """Report a checkpoint."""
        self.emit("rank0", "save", checkpoint=f"/{self.name}/checkpoint-{self.step}")

    def _train(self) -> None:
        if self._left > 0:
            self._left -= 1
        if self._left == self.wait_ticks and self.step:
            self.step += 1
            self.emit("rank0", "step_end")
            self.emit("rank0", "log", logs={"loss": self.loss(), "learning_rate": 1e-3})
            if self.step % self.save_steps == 0:
                self.save()
        if self._left == 0:
            self.step = self.step or 1
            self.emit("rank0", "step_begin")
            self._left = self.step_ticks + self.wait_ticks

    def _beat(self) -> None:
        emitted = self._producers[f"{self.name}/rank0/{self.attempt}"].next_seq
        self.emit(
            "shipper",
            "heartbeat",
            producer="rank0",
            attempt=self.attempt,
            rank=0,
            pid=1,
            host=self.name,
            step=self.step,
            phase=self.phase,
            hook_age=self.hook_age,
            rss=1 << 30,
            emitted=emitted + self.unsent,
            acked=emitted,
        )


@dataclass
class Fault:
    """What makes an alert fire and resolve.

    ``ready_ticks`` is how long the run trains before ``fail``. ``recover`` None: it resolves by
    itself.
    """

    alert: str
    run: ScriptedRun
    fail: Callable[[], object]
    recover: Callable[[], object] | None = None
    ready_ticks: int = 30
    each_tick: Callable[[], object] | None = None
    is_over: bool = False


def set_on(target: object, **values: Any) -> Callable[[], None]:
    """Sets attributes."""

    def change() -> None:
        for name, value in values.items():
            setattr(target, name, value)

    return change


def all_faults(connection: ProducerConnection) -> list[Fault]:
    """A run for each alert about runs and machines."""

    def new(name: str, **machine: float) -> ScriptedRun:
        made = ScriptedRun(connection, name)
        made.machine = {key.replace("__", "/"): value for key, value in machine.items()}
        return made

    def measure(run: ScriptedRun, **machine: float) -> Callable[[], None]:
        values = {key.replace("__", "/"): value for key, value in machine.items()}
        return lambda: run.machine.update(values)

    faults = []

    lost = new("lost")

    def lose() -> None:
        lost.end()
        lost.emit("shipper", "process_lost", producer="rank0", attempt=lost.attempt, pid=1)

    faults.append(Fault("LinesideRunLost", lost, lose, lost.start))

    failed = new("failed")

    def fail() -> None:
        failed.end()
        error = {"type": "ValueError", "message": "x", "traceback": ""}
        failed.emit("rank0", "train_error", error=error)
        failed.emit("rank0", "run_end", how="exception", error=error)

    faults.append(Fault("LinesideRunFailed", failed, fail, failed.start))

    killed = new("killed")

    def kill() -> None:
        killed.end()
        killed.emit("launcher", "process_exit", attempt=killed.attempt, signal="SIGKILL", seconds=9)

    faults.append(Fault("LinesideRunKilled", killed, kill, killed.start))

    stalled = new("stalled")
    faults.append(
        Fault(
            "LinesideRunStalled",
            stalled,
            set_on(stalled, hook_age=1000.0),
            set_on(stalled, hook_age=0.01),
        )
    )
    silent = new("disconnected")
    faults.append(
        Fault(
            "LinesideRunDisconnected",
            silent,
            set_on(silent, is_silent=True),
            set_on(silent, is_silent=False),
        )
    )
    nan = new("nan")

    def log_nan() -> None:
        nan.emit("rank0", "log", logs={"loss": math.nan})

    faults.append(Fault("LinesideLossNotFinite", nan, log_nan))

    diverging = new("diverging")
    faults.append(
        Fault(
            "LinesideLossDiverging",
            diverging,
            set_on(diverging, loss=lambda: 9.0 + random.random()),
            set_on(diverging, loss=lambda: 2.0 + random.random()),
            ready_ticks=70,
        )
    )
    slow = new("slow")
    faults.append(
        Fault(
            "LinesideThroughputFell",
            slow,
            set_on(slow, step_ticks=4),
            set_on(slow, step_ticks=1),
            ready_ticks=100,
        )
    )
    starved = new("starved")
    faults.append(
        Fault(
            "LinesideDataLoaderBound",
            starved,
            set_on(starved, wait_ticks=2),
            set_on(starved, wait_ticks=0),
        )
    )
    unsaved = new("unsaved")
    unsaved.save_steps = 5
    faults.append(
        Fault(
            "LinesideCheckpointOverdue",
            unsaved,
            set_on(unsaved, save_steps=10_000),
            set_on(unsaved, save_steps=5),
        )
    )
    archived = new("archived")
    faults.append(
        Fault(
            "LinesideArchiveStopped",
            archived,
            lambda: archived.copy("failed"),
            lambda: archived.copy("archived"),
        )
    )
    late = new("late")
    faults.append(
        Fault("LinesideSpoolBacklog", late, set_on(late, unsent=60_000), set_on(late, unsent=3))
    )
    holed = new("holed")
    faults.append(Fault("LinesideEventsLost", holed, lambda: holed.lose_events(3)))

    idle = new("idle", gpu0__utilization_ratio=0.9, **GPU_MEMORY)
    faults.append(
        Fault(
            "LinesideGpuIdle",
            idle,
            measure(idle, gpu0__utilization_ratio=0.02),
            measure(idle, gpu0__utilization_ratio=0.9),
        )
    )
    xid = new("xid", gpu0__xid_errors_total=0)
    faults.append(Fault("LinesideGpuXid", xid, measure(xid, gpu0__xid_errors_total=1)))
    ecc = new("ecc", gpu0__ecc_uncorrected_errors_total=5)
    faults.append(
        Fault("LinesideGpuMemoryErrors", ecc, measure(ecc, gpu0__ecc_uncorrected_errors_total=6))
    )
    hot = new("hot", gpu0__slowdown=0)
    faults.append(
        Fault(
            "LinesideGpuSlowdown",
            hot,
            measure(hot, gpu0__slowdown=1),
            measure(hot, gpu0__slowdown=0),
        )
    )
    full = new("full", filesystem__output__available_bytes=5e11, **DISK_SIZE)
    faults.append(
        Fault(
            "LinesideDiskFull",
            full,
            measure(full, filesystem__output__available_bytes=1e9),
            measure(full, filesystem__output__available_bytes=5e11),
        )
    )
    filling = new("filling", filesystem__output__available_bytes=4.9e11, **DISK_SIZE)
    free = "filesystem/output/available_bytes"

    def fill() -> None:
        if filling.machine[free] < 5e11:
            filling.machine[free] = max(1.0e11, filling.machine[free] - 8e8)

    faults.append(
        Fault(
            "LinesideDiskFilling",
            filling,
            lambda: None,
            measure(filling, filesystem__output__available_bytes=9e11),
            each_tick=fill,
        )
    )
    crowded = new("crowded", cgroup__memory_working_set_bytes=5e9, cgroup__memory_limit_bytes=1e10)
    faults.append(
        Fault(
            "LinesideTrainingMemoryFull",
            crowded,
            measure(crowded, cgroup__memory_working_set_bytes=9.9e9),
            measure(crowded, cgroup__memory_working_set_bytes=5e9),
        )
    )
    subscribed = new("subscribed")

    def fail_subscriber() -> None:
        subscribed.emit("slack", "subscriber_error", subscriber="slack", action="skipped")

    faults.append(Fault("LinesideSubscriberFailing", subscribed, fail_subscriber))
    return faults


def limit_fault(connection: ProducerConnection) -> Fault:
    """A run with more metrics than the exporter shows, at 20 of them."""
    run = ScriptedRun(connection, "limit")

    def log() -> None:
        run.emit("rank0", "log", logs={f"metric {n}": float(n) for n in range(30)})

    return Fault("LinesideMetricsOverLimit", run, log, each_tick=log)


GPU_MEMORY = {"gpu0__memory_used_bytes": 4e10, "gpu0__memory_total_bytes": 8e10}
DISK_SIZE = {"filesystem__output__size_bytes": 1e12}
