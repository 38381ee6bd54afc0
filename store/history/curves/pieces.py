"""Selects the pieces of a curve, of one attempt or several, and reads them through their blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, or_, select

from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import RANK_0
from lineside.store.database.tables import attempts, series, streams
from lineside.store.downsampling import Point, Selection, Totals
from lineside.store.history.curves.series_reader import (
    EVERYWHERE,
    Found,
    Reading,
    Region,
    SeriesReader,
)


@dataclass(frozen=True)
class AttemptSelection:
    """Selects steps of attempts, in the order of their start.

    ``last_steps`` has the last step of each that counts: infinity if all its steps do, minus
    infinity if none does. The later ones are left out, or marked if ``with_superseded``.
    """

    last_steps: Mapping[str, float]
    numbers: Mapping[str, int]
    with_superseded: bool = False

    def regions(self, attempt: str) -> Iterator[tuple[Region, bool]]:
        """The selected points of an attempt, and whether they are superseded."""
        last = self.last_steps[attempt]
        if last > -inf:
            yield Region(step_max=last), False
        if self.with_superseded and last < inf:
            yield Region(step_min=last + 1), True


class CurveSource(NamedTuple):
    """Selects curves: of a run, of attempts, of a producer (None: any).

    A stream that is not named after an attempt of the run is of a producer beside the training; it
    counts for every attempt.
    """

    run_key: int
    attempts: AttemptSelection
    producer: str | None


@dataclass(frozen=True, slots=True)
class CurveRequest:
    """Selects points of a curve: about ``points`` (None: all) between ``start`` and ``end``.

    Both are in units of ``x`` (step or time); None means no limit.

    Raises:
        UsageError: ``x`` is neither, or ``points`` is below 1.
    """

    points: int | None
    x: str
    start: float | None = None
    end: float | None = None
    overview: bool = False

    def __post_init__(self) -> None:
        if self.x not in ("step", "time"):
            raise UsageError(f"x={self.x!r} cannot be drawn: expected step or time")
        if self.points is not None and self.points < 1:
            raise UsageError(f"points={self.points}: expected 1 or more")

    def x_of(self, point: Point) -> float:
        """The place of ``point`` on the axis."""
        return point[2] if self.x == "time" else point[1]

    def extent(self, totals: Totals) -> tuple[float, float]:
        """The lowest and highest place on the axis of the points of ``totals``."""
        if self.x == "time":
            return totals.time_min, totals.time_max
        return float(totals.step_min), float(totals.step_max)

    def region(self, low: float = -inf, high: float = inf) -> Region:
        """The points between two places on the axis."""
        if self.x == "time":
            return Region(time_min=low, time_max=high)
        return Region(step_min=low, step_max=high)


class Piece:
    """The points of one series in a region; ``attempt`` is None for one beside the training."""

    def __init__(
        self,
        connection: Connection,
        row: Any,
        attempt: str | None,
        region: Region,
        superseded: bool,
    ) -> None:
        self.row = row
        self.attempt = attempt
        self.region = region
        self.superseded = superseded
        self.reader = SeriesReader(connection, row.id, row.n)

    @cached_property
    def whole(self) -> Found:
        return self.reader.find(self.region)

    def find(self, window: Region) -> Found:
        return self.whole if window == EVERYWHERE else self.reader.find(self.region.within(window))

    @property
    def sum(self) -> float | None:
        """The sum of the finite values; None beyond a double."""
        if self.region == EVERYWHERE:
            total: float | None = self.row.sum
            return total
        parts = [block.sum for block in self.whole.blocks]
        return sum_finite([*parts, *(p.value for p in self.whole.edges if p.value is not None)])


@dataclass
class Drawing:
    """What is shown of a piece: points, and the blocks that they were selected from."""

    piece: Piece
    points: list[Point]
    blocks: list[tuple[Totals, Selection]]


def select_series(source: CurveSource, kind: str) -> Select[Any]:
    known_attempts = select(attempts.c.attempt).where(attempts.c.run_key == source.run_key)
    query = (
        select(series, streams.c.producer, streams.c.attempt)
        .join(streams, streams.c.id == series.c.stream_id)
        .where(streams.c.run_key == source.run_key, series.c.kind == kind)
        .where(
            or_(
                streams.c.attempt.in_(source.attempts.last_steps),
                streams.c.attempt.not_in(known_attempts),
            )
        )
        .order_by(
            (streams.c.producer == RANK_0).desc(),
            streams.c.producer,
            series.c.name,
            streams.c.attempt,
        )
    )
    return query if source.producer is None else query.where(streams.c.producer == source.producer)


def select_pieces(connection: Connection, source: CurveSource, rows: Sequence[Any]) -> list[Piece]:
    """The selected pieces of a curve: those of attempts in their order, then the others."""
    of_attempt = {row.attempt: row for row in rows}
    pieces = []
    for attempt in source.attempts.last_steps:
        if attempt in of_attempt:
            row = of_attempt.pop(attempt)
            for region, superseded in source.attempts.regions(attempt):
                pieces.append(Piece(connection, row, attempt, region, superseded))
    pieces += [Piece(connection, row, None, EVERYWHERE, False) for row in of_attempt.values()]
    return [piece for piece in pieces if piece.whole.count]


def draw(piece: Piece, found: Found, size: int, wanted: int) -> Drawing:
    reading = piece.reader.read(found, size)
    if size == 1:
        return Drawing(piece, reading.raw, [])
    selections: dict[int, Selection] = defaultdict(Selection)
    for point in sorted((*reading.raw, *reading.selected)):
        selections[point[0] // size].add(point)
    totals = add_up(reading, size)
    known = {point[0]: point for one in selections.values() for point in one.points()}
    known.update((point[0], point) for point in piece.reader.non_finite(found, wanted))
    blocks = [(totals[number], selections[number]) for number in sorted(selections)]
    return Drawing(piece, [known[idx] for idx in sorted(known)], blocks)


def add_up(reading: Reading, size: int) -> dict[int, Totals]:
    """Totals of each block of ``size`` points, by its number."""
    totals: dict[int, Totals] = defaultdict(Totals)
    for point in reading.raw:
        totals[point[0] // size].add(point)
    for part in reading.summaries:
        totals[part.idx // size].merge(part)
    return totals


def sum_finite(sums: Sequence[float | None]) -> float | None:
    """The sum; None if it is beyond a double, or one of ``sums`` is."""
    total = sum((part for part in sums if part is not None), 0.0)
    return total if None not in sums and isfinite(total) else None
