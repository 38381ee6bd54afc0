"""A histogram of seconds, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The upper bounds for steps and waits, in seconds."""
ARCHIVE_BUCKETS = tuple(1000 * bound for bound in BUCKETS)
"""Those for copies to the archive, which an outage makes days long."""


class Histogram:
    """Counts of observations up to each of ``bounds``, the last of those above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def to_dict(self) -> dict[str, Any]:
        """The histogram as JSON values."""
        return {"counts": self.counts, "sum": self.sum}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], bounds: Sequence[float] = BUCKETS) -> Histogram:
        """The inverse of ``to_dict``."""
        made = cls(bounds)
        made.counts, made.sum = list(saved["counts"]), float(saved["sum"])
        return made
