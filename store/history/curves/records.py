"""Frozen records of curves that reads return. Times are seconds since the epoch in columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from lineside.store.database.values import FLAGS, decode_float


@dataclass(frozen=True, slots=True)
class Series:
    """A metric of one producer. ``last`` may be NaN or infinite.

    ``min`` and ``max`` are of the finite values; None if there are none.
    """

    name: str
    attempt: str
    producer: str
    count: int
    last: float
    last_step: int
    last_time: datetime
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Segment:
    """The ``count`` points of a curve from index ``first`` on: of one attempt.

    ``superseded``: a later attempt resumed from an earlier step. ``attempt`` and ``number`` are
    None for points of a producer beside the training that covers the whole run.
    """

    attempt: str | None
    number: int | None
    superseded: bool
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Means:
    """Consecutive blocks of a curve of ``size`` points each, as columns of equal length.

    The points of a block are from ``start`` to ``end`` on the axis; ``count`` of them are finite
    and have this ``mean`` (None: there is none, or their sum is beyond a double). The last block of
    an attempt may have fewer points.
    """

    size: int
    start: list[float]
    end: list[float]
    mean: list[float | None]
    count: list[int]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The ``means`` of blocks, and the lowest and highest finite value of each."""

    means: Means
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True, slots=True)
class Points:
    """A curve as columns of equal length.

    Points are in the order recorded, attempt by attempt (``segments``); those of a producer beside
    the training are sorted by ``x``. ``attempt`` is None if they are of several attempts, or of
    none. ``x`` is ``step`` or ``time`` (seconds since the epoch), as requested. ``y`` is None where
    the value is not finite; ``flag`` is then ``nan``, ``inf`` or ``-inf``. ``total`` is the number
    of points and ``sum`` the sum of the finite values (None beyond a double) of the whole curve. If
    ``downsampled``, some points of the requested part are left out, and ``blocks`` has the blocks
    of the others, without superseded points. The ``overview``, if requested, has the whole
    curve without superseded points.
    """

    name: str
    attempt: str | None
    producer: str
    x: list[float]
    y: list[float | None]
    step: list[int]
    time: list[float]
    epoch: list[float | None]
    flag: list[str | None]
    segments: list[Segment]
    total: int
    sum: float | None
    downsampled: bool
    blocks: Blocks | None = None
    overview: Means | None = None

    @property
    def values(self) -> list[float]:
        """``y`` with its NaNs and infinities."""
        return [
            decode_float(y, FLAGS.index(flag)) for y, flag in zip(self.y, self.flag, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds by step: ``compute`` from step_begin to step_end, ``wait`` to the next step_begin.

    ``wait`` is for data, and for an evaluation or a save between the steps.
    """

    compute: Points
    wait: Points


class PointRow(NamedTuple):
    """One point of a curve. ``value`` may be NaN or infinite."""

    attempt: str
    producer: str
    name: str
    step: int
    epoch: float | None
    time: datetime
    value: float
