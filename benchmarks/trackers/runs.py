"""Runs a measured training in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.callback_config import STOCK_CALLBACKS

ROOT = Path(__file__).parents[2]
STEPS = 200
WARM_UP = 20  # steps that do not count


@dataclass(frozen=True)
class Times:
    """Seconds from the process's start to the first step, and from the last step to its end; mean
    milliseconds of a step, of all and of the second half; microseconds of each ``on_log``."""

    set_up: float
    close: float
    step: float
    late_step: float
    on_log: list[float]
    imported: list[str]
    """The modules of trackers that the training process had imported at its end."""


def train(
    folder: Path, environment: Mapping[str, str], *, tracker: str = "", lineside: bool = False
) -> Times:
    """Train once, with ``tracker`` in the training process if it is given.

    Raises:
        RuntimeError: it failed; the message has its last output.
    """
    callback = STOCK_CALLBACKS[tracker] if tracker else None
    command = [sys.executable, *training(folder, callback=callback, lineside=lineside)]
    return measure_command(command, folder, environment)


def training(
    folder: Path,
    *,
    callback: str | None = None,
    lineside: bool = False,
    report_to: str = "none",
    steps: int = STEPS,
    logging_steps: int = 1,
    save_steps: int = 0,
) -> list[str]:
    """The arguments of Python for a measured training."""
    plan = {
        "callback": callback,
        "lineside": lineside,
        "report_to": report_to,
        "steps": steps,
        "logging_steps": logging_steps,
        "save_steps": save_steps,
        "output": str(folder / "out"),
    }
    return ["-m", "benchmarks.trackers.training", json.dumps(plan)]


def measure_command(command: list[str], folder: Path, environment: Mapping[str, str]) -> Times:
    """The times of ``command``, which ends with the line of JSON of ``training``."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    with (folder / "training.log").open("ab") as log:
        begun = time.monotonic_ns()
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log)
        output, _ = process.communicate()
        ended = time.monotonic_ns()
    lines = [line for line in output.decode().splitlines() if line.startswith('{"steps"')]
    if process.returncode or not lines:
        tail = (folder / "training.log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{command} ended with {process.returncode}: {output!r} {tail}")
    found = json.loads(lines[-1])
    times: list[int] = found["steps"]
    counted = times[WARM_UP:]
    return Times(
        set_up=(times[0] - begun) / 1e9,
        close=(ended - times[-1]) / 1e9,
        step=_mean_ms(counted),
        late_step=_mean_ms(counted[len(counted) // 2 :]),
        on_log=[one / 1e3 for one in found["on_log"][WARM_UP:]],
        imported=found["imported"],
    )


def _mean_ms(times: list[int]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1) / 1e6


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def ratios(found: list[Times], base: list[Times], what: str) -> str:
    """The median of the ratios of ``what``, round by round, with the smallest and the largest."""
    each = [getattr(a, what) / getattr(b, what) for a, b in zip(found, base, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def median(found: list[Times], what: str) -> float:
    values: list[float] = [getattr(one, what) for one in found]
    return statistics.median(values)
