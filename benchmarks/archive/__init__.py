"""What the archive costs a training, how fast it is, and what ten checkpoints take there."""

from benchmarks.archive import speed, stored, training
from benchmarks.table import Row


def measure() -> list[Row]:
    return [*training.measure(), *speed.measure(), *stored.measure()]


__all__ = ["measure"]
