"""What a person needs to know of a run that an alert is about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lineside.store.history.records import Run
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.loss import LOSSES

_FIRST_METRICS = (*LOSSES, "eval_loss", "learning_rate", "grad_norm")
_MAX_METRICS = 10
_MAX_OUTPUT_LINES, _MAX_OUTPUT = 12, 2000


def details(run: RunObservation) -> dict[str, Any]:
    """Step, newest metrics, host, exit and the end of the traceback, as far as they are known."""
    record = run.run
    found: dict[str, Any] = {
        "status": record.status,
        "attempt": record.attempts[-1].number,
        "step": record.step,
        "max_steps": record.max_steps,
        "epoch": record.epoch,
        "metrics": _metrics(record),
        "host": run.host,
        "exit": _exit(run.exit),
        "output": _output(record),
    }
    return {name: value for name, value in found.items() if value not in (None, "", {})}


def _metrics(run: Run) -> dict[str, float | str]:
    """The newest values that a person looks for first; one that is not finite as a text."""
    names = [name for name in _FIRST_METRICS if name in run.metrics]
    names += [name for name in run.metrics if name not in names and name != "epoch"]
    values = {name: run.metrics[name] for name in names[:_MAX_METRICS]}
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _exit(data: Mapping[str, Any] | None) -> str:
    if data is None or data.get("outlived"):
        return ""
    signal, code = data.get("signal"), data.get("exit_code")
    text = f"signal {signal}" if signal else "" if code is None else f"exit code {code}"
    return f"{text}, out of memory" if text and data.get("out_of_memory") else text


def _output(run: Run) -> str:
    """The end of the exception's traceback, which is the last that a failed script prints."""
    if run.error is None:
        return ""
    lines = run.error.traceback.rstrip().splitlines()[-_MAX_OUTPUT_LINES:]
    return "\n".join(lines)[-_MAX_OUTPUT:]
