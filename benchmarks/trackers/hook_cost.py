"""What a tracker costs a training: its set-up, its ``on_log``, the training's end, and a step.

Each tracker is measured beside a training without a callback and beside the same tracker hosted by
Lineside: the three take turns, and ratios and differences are of one turn.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.trackers.hosting import Hosting
from benchmarks.trackers.runs import Times, percentile, train
from benchmarks.trackers.stock import environment, installed

NOTE = """\
The training of a small model with a log at every step, in turns: without a callback, with the
tracker in its process, and with the tracker hosted by Lineside. `on_log` is the time that the
training waits at a log. Set-up is from the start of the process to the first step, end is from the
last step to the end of the process; both are less the same without a callback. A step is the mean
with its log, as a ratio to the same without a callback, over the rounds. The first line is
absolute.
Every tracker writes into local files and sends nothing."""


@dataclass
class Cost:
    """What a callback adds in each round, beside a training without one."""

    name: str
    where: str
    set_up: list[float] = field(default_factory=list)
    close: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    on_log: list[float] = field(default_factory=list)

    def add(self, times: Times, none: Times) -> None:
        self.set_up.append(times.set_up - none.set_up)
        self.close.append(times.close - none.close)
        self.step.append(times.step / none.step)
        self.on_log += times.on_log

    def row(self) -> str:
        """A line of the table."""
        set_up, close, step = map(statistics.median, (self.set_up, self.close, self.step))
        p50, p99 = statistics.median(self.on_log), percentile(self.on_log, 0.99)
        return (
            f"| {self.name} | {self.where} | {p50:,.0f} | {p99:,.0f} "
            f"| {set_up:+.1f} | {close:+.1f} | {step:.2f} "
            f"({min(self.step):.2f} to {max(self.step):.2f}) |"
        )


def measure(rounds: int) -> str:
    """The table, of all installed trackers."""
    nones: list[Times] = []
    costs = [_lineside(rounds, nones)]
    for name in installed():
        costs += _tracker(name, rounds, nones)
    steps, set_ups, closes = (
        statistics.median(getattr(one, what) for one in nones)
        for what in ("step", "set_up", "close")
    )
    lines = [
        "| callback | where | on_log p50, us | p99, us | set-up, s | end, s | step |",
        "|---|---|---|---|---|---|---|",
        f"| none | | | | {set_ups:.1f} | {closes:.1f} | {steps:.1f} ms |",
        *(cost.row() for cost in costs),
    ]
    return "\n".join(lines)


def _lineside(rounds: int, nones: list[Times]) -> Cost:
    cost = Cost("Lineside", "no host")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made)
        with Hosting(folder / "home", {}) as hosting:
            for _ in range(rounds):
                nones.append(train(folder / "work", {}))
                cost.add(train(folder / "work", hosting.environment, lineside=True), nones[-1])
    return cost


def _tracker(name: str, rounds: int, nones: list[Times]) -> list[Cost]:
    inside, hosted = Cost(name, "in-process"), Cost(name, "hosted")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made)
        variables = environment(folder)
        with Hosting(folder / "home", variables, [name]) as hosting:
            for number in range(rounds):
                nones.append(train(folder / "work", variables))
                inside.add(train(folder / "work", variables, tracker=name), nones[-1])
                run = f"{name}-{number}"
                env = {**hosting.environment, "LINESIDE_RUN_ID": run}
                hosted.add(train(folder / "work", env, lineside=True), nones[-1])
                hosting.wait_until_delivered(run, name)
    return [inside, hosted]
