"""Measures what keeping checkpoints costs a training."""

from __future__ import annotations

from benchmarks.checkpoints import holding
from benchmarks.table import Row


def measure() -> list[Row]:
    """What holding a checkpoint adds to the hooks of a real Trainer."""
    return holding.measure()
