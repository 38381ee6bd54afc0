"""How fast a checkpoint gets into an archive, and what ten of them take there."""

from benchmarks.archive import speed, stored
from benchmarks.table import Row


def measure() -> list[Row]:
    return [*speed.measure(), *stored.measure()]


__all__ = ["measure"]
