"""Reads the curves of metrics and timing, whole or downsampled, over one attempt or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import inf, isfinite, nextafter
from typing import Any

from sqlalchemy import Connection

from lineside.bus.protocol.events import RANK_0, is_rank
from lineside.store.database.tables import METRIC, series
from lineside.store.database.values import FLAGS, decode_float, to_datetime
from lineside.store.downsampling import MAX_SELECTED, Point, Totals, chart_block_size
from lineside.store.history.curves.pieces import (
    AttemptSelection,
    CurveRequest,
    CurveSource,
    Drawing,
    Piece,
    add_up,
    draw,
    select_pieces,
    select_series,
    sum_finite,
)
from lineside.store.history.curves.records import Blocks, Means, Points, Segment, Series
from lineside.store.history.curves.series_reader import EVERYWHERE, Region

OVERVIEW_BLOCKS = 1000
"""The most blocks of an overview."""
_WHOLE = 1 << 62  # a block of any number of points


def read_metrics(connection: Connection, source: CurveSource) -> list[Series]:
    """The metrics: rank 0's first, then by producer and name."""
    rows = connection.execute(select_series(source, METRIC))
    groups = groupby(rows, lambda row: (row.producer, row.name))
    found = (_to_series(connection, source, list(group)) for _, group in groups)
    return [one for one in found if one is not None]


def read_curve(
    connection: Connection, source: CurveSource, kind: str, name: str, request: CurveRequest
) -> Points:
    """The requested part of a curve, with the nearest points on each side.

    It has all points that are not finite if they are at most as many as requested, else the first
    of each block. A curve of a producer beside the training is sorted by ``x``. A curve that does
    not exist has no points.
    """
    rows = connection.execute(select_series(source, kind).where(series.c.name == name)).all()
    producer = rows[0].producer if rows else source.producer or RANK_0
    pieces = select_pieces(connection, source, [row for row in rows if row.producer == producer])
    window = _window(pieces, request)
    found = [piece.find(window) for piece in pieces]
    counts = [part.count for part in found]
    wanted = sum(counts) if request.points is None else request.points
    size = 1
    if sum(counts) > wanted:
        size = chart_block_size(counts, max(1, wanted // MAX_SELECTED))
    drawings = [draw(piece, part, size, wanted) for piece, part in zip(pieces, found, strict=True)]
    shown = sum(len(drawing.points) for drawing in drawings)
    segments, kept = _join(source, drawings, request)
    step, time = [point[1] for point in kept], [point[2] for point in kept]
    named = {piece.attempt for piece in pieces}
    return Points(
        name=name,
        attempt=named.pop() if len(named) == 1 else None,
        producer=producer,
        x=[float(value) for value in (time if request.x == "time" else step)],
        y=[point[4] for point in kept],
        step=step,
        time=time,
        epoch=[point[3] for point in kept],
        flag=[FLAGS[point[5]] for point in kept],
        segments=segments,
        total=sum(piece.whole.count for piece in pieces),
        sum=sum_finite([piece.sum for piece in pieces]),
        downsampled=shown < sum(counts),
        blocks=_blocks(drawings, size, request) if size > 1 else None,
        overview=_overview(pieces, request) if request.overview else None,
    )


def _window(pieces: Sequence[Piece], request: CurveRequest) -> Region:
    """The requested region, widened to the nearest point on each side."""
    low = -inf if request.start is None else request.start
    high = inf if request.end is None else request.end

    def nearest(beyond: Region, *, highest: bool) -> Iterator[float]:
        for piece in pieces:
            at = piece.reader.extreme(piece.region.within(beyond), request.x, highest=highest)
            if at is not None:
                yield at

    before = request.region(high=nextafter(low, -inf))
    after = request.region(low=nextafter(high, inf))
    return request.region(
        max(nearest(before, highest=True), default=low) if low > -inf else low,
        min(nearest(after, highest=False), default=high) if high < inf else high,
    )


def _join(
    source: CurveSource, drawings: Sequence[Drawing], request: CurveRequest
) -> tuple[list[Segment], list[Point]]:
    """The points of all pieces, and the segments that they make up.

    Each piece of an attempt is a segment. A producer beside the training may have a stream for each
    start, and take steps in any order: its points are one segment sorted by ``x``.
    """
    segments: list[Segment] = []
    joined: list[Point] = []

    def add(attempt: str | None, superseded: bool, found: Sequence[Point]) -> None:
        if found:
            number = None if attempt is None else source.attempts.numbers.get(attempt)
            segments.append(Segment(attempt, number, superseded, len(joined), len(found)))
            joined.extend(found)

    if all(is_rank(drawing.piece.row.producer) for drawing in drawings):
        for drawing in drawings:
            add(drawing.piece.attempt, drawing.piece.superseded, drawing.points)
    else:
        for superseded in (False, True):
            some = [one for one in drawings if one.piece.superseded is superseded]
            named = {one.piece.attempt for one in some}
            found = sorted((p for one in some for p in one.points), key=request.x_of)
            add(named.pop() if len(named) == 1 else None, superseded, found)
    return segments, joined


def _blocks(drawings: Sequence[Drawing], size: int, request: CurveRequest) -> Blocks:
    kept = [one for one in drawings if not one.piece.superseded]
    pairs = [pair for one in kept for pair in one.blocks]
    if not all(is_rank(one.piece.row.producer) for one in kept):
        pairs.sort(key=lambda pair: request.extent(pair[0]))
    means = _means([totals for totals, _ in pairs], size, request)
    selections = [selection for _, selection in pairs]
    return Blocks(
        means=means,
        low=[one.low.value if one.low else None for one in selections],
        high=[one.high.value if one.high else None for one in selections],
    )


def _overview(pieces: Sequence[Piece], request: CurveRequest) -> Means:
    """The whole curve without superseded points as blocks, whatever part of it is requested."""
    kept = [piece for piece in pieces if not piece.superseded]
    size = chart_block_size([piece.whole.count for piece in kept], OVERVIEW_BLOCKS)
    totals: list[Totals] = []
    for piece in kept:
        reading = piece.reader.read(piece.whole, size, select_points=False)
        found = add_up(reading, size)
        totals += [found[number] for number in sorted(found)]
    if not all(is_rank(piece.row.producer) for piece in kept):
        totals.sort(key=request.extent)
    return _means(totals, size, request)


def _means(totals: Sequence[Totals], size: int, request: CurveRequest) -> Means:
    extents = [request.extent(one) for one in totals]
    return Means(
        size=size,
        start=[start for start, _ in extents],
        end=[end for _, end in extents],
        mean=[one.sum / one.n if one.n and isfinite(one.sum) else None for one in totals],
        count=[one.n for one in totals],
    )


def _to_series(connection: Connection, source: CurveSource, rows: Sequence[Any]) -> Series | None:
    """One metric of one producer; None if all its points are superseded and left out.

    If some of its points are left out, the others are read from their blocks.
    """
    whole = AttemptSelection(dict.fromkeys(source.attempts.last_steps, inf), {})
    selection = whole if source.attempts.with_superseded else source.attempts
    parts = []
    for piece in select_pieces(connection, source._replace(attempts=selection), rows):
        row = piece.row
        last: Any = (row.last, row.last_flag, row.last_step, row.last_time)
        ends: Any = (row.min, row.max)
        if piece.region != EVERYWHERE:
            drawing = draw(piece, piece.whole, _WHOLE, 0)
            end, (_, one) = drawing.points[-1], drawing.blocks[0]
            last = (end.value, end.flag, end.step, end.time)
            ends = (one.low and one.low.value, one.high and one.high.value)
        parts.append((piece, last, ends))
    if not parts:
        return None
    newest, (value, flag, step, time), _ = max(parts, key=lambda part: part[1][3])
    return Series(
        name=newest.row.name,
        attempt=newest.row.attempt,
        producer=newest.row.producer,
        count=sum(piece.whole.count for piece, _, _ in parts),
        last=decode_float(value, flag),
        last_step=step,
        last_time=to_datetime(time),
        min=min((low for _, _, (low, _) in parts if low is not None), default=None),
        max=max((high for _, _, (_, high) in parts if high is not None), default=None),
    )
