"""Downsampling of long curves: no selected point is lost, and none moves."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.store.database.values import encode_float
from lineside.store.downsampling import (
    BLOCK,
    FAN_OUT,
    NON_FINITE_LEVEL,
    OpenBlocks,
    Point,
    Selection,
    Summary,
    Totals,
    block_size,
    chart_block_size,
    cover,
    open_block_starts,
)

values = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]),
)


class Recorded:
    """The rows of a series: points, and selected points and summaries by level."""

    def __init__(self) -> None:
        self.levels: dict[int, list[Point]] = {0: []}
        self.summaries: dict[int, list[Summary]] = {}
        self.non_finite: list[Point] = []
        self.open_blocks = OpenBlocks()

    def add(self, value: float) -> None:
        count = len(self.levels[0])
        step = (count * 7) % 1000
        point = Point(count, step, count / 2, None, *encode_float(value))
        self.levels[0].append(point)
        rows = self.open_blocks.add(point)
        for level, selected in rows.selected if rows else ():
            (
                self.levels.setdefault(level, []) if level != NON_FINITE_LEVEL else self.non_finite
            ).append(selected)
        for level, whole in rows.summaries if rows else ():
            self.summaries.setdefault(level, []).append(whole)

    def read(self, level: int, first: int, end: int) -> list[Point]:
        return [point for point in self.levels.get(level, []) if first <= point.idx < end]

    def chart(self, size: int) -> list[Point]:
        blocks: dict[int, Selection] = {}
        for part in cover(0, len(self.levels[0]), size):
            for point in self.read(*part):
                blocks.setdefault(point.idx // size, Selection()).add(point)
        return [point for number in sorted(blocks) for point in blocks[number].points()]


def reference(points: list[Point], size: int) -> list[Point]:
    """The selected points of each block, computed from the definition."""
    kept: list[Point] = []
    for start in range(0, len(points), size):
        block = points[start : start + size]
        finite = [point for point in block if point.value is not None]
        chosen = {block[0], block[-1]}
        if finite:
            chosen.add(min(finite, key=lambda p: (p.value, p.idx)))
            chosen.add(max(finite, key=lambda p: (p.value, -p.idx)))
        chosen.update(
            point
            for point in block
            if point.value is None and point == next(p for p in block if p.value is None)
        )
        kept.extend(sorted(chosen))
    return kept


def summary(points: list[Point]) -> Summary:
    """The summary of a block, computed from the definition."""
    finite = [point.value for point in points if point.value is not None]
    total = sum(finite)
    steps, times = [point.step for point in points], [point.time for point in points]
    return Summary(
        points[0].idx,
        len(finite),
        total if math.isfinite(total) else None,
        min(steps),
        max(steps),
        min(times),
        max(times),
    )


@given(st.lists(values, max_size=1500), st.sampled_from([1, 2, 8, 32, 64, 128, 512, 1024]))
@settings(max_examples=60, deadline=None)
def test_a_chart_has_the_selected_points_of_each_block(series: list[float], size: int) -> None:
    recorded = Recorded()
    for value in series:
        recorded.add(value)
    assert recorded.chart(size) == reference(recorded.levels[0], size)
    assert recorded.non_finite == [point for point in recorded.levels[0] if point.value is None]


def test_a_chart_read_through_several_levels_is_the_one_from_all_points() -> None:
    recorded = Recorded()
    count = BLOCK * FAN_OUT * FAN_OUT + BLOCK * FAN_OUT * 3 + BLOCK * 5 + 7
    for number in range(count):
        recorded.add(math.sin(number / 50) + (1000.0 if number == 777 else 0.0))
    assert max(recorded.levels) == 3
    for exponent in range(15):
        size = 1 << exponent
        assert recorded.chart(size) == reference(recorded.levels[0], size)
        read = sum(len(recorded.read(*part)) for part in cover(0, count, size))
        assert read <= max(-(-count // size) * FAN_OUT * 5, 2 * BLOCK + 100)


def test_each_complete_block_knows_number_sum_and_ranges_of_its_points() -> None:
    recorded = Recorded()
    for number in range(BLOCK * FAN_OUT * 9 + 70):
        recorded.add(math.nan if number % 100 == 3 else float(number % 13))
    points = recorded.levels[0]
    for level, found in recorded.summaries.items():
        size = block_size(level)
        starts = range(0, len(points) - size + 1, size)
        assert found == [summary(points[start : start + size]) for start in starts]
    assert sorted(recorded.summaries) == [1, 2, 3]


def test_a_sum_beyond_a_double_is_none_in_every_larger_block() -> None:
    recorded = Recorded()
    for number in range(BLOCK * FAN_OUT):
        recorded.add(1.7e308 if number < 3 else 1.0)
    assert recorded.summaries[1][0].sum is None
    assert recorded.summaries[1][1].sum == 64.0
    assert (recorded.summaries[2][0].sum, recorded.summaries[2][0].n) == (None, 512)


@given(st.integers(0, 9000), st.integers(0, 9000), st.sampled_from([1, 64, 128, 512, 5000]))
@settings(max_examples=100, deadline=None)
def test_stored_blocks_cover_any_span_exactly_once(one: int, other: int, size: int) -> None:
    first, end = sorted((one, other))
    at = first
    for level, start, stop in cover(first, end, size):
        whole = block_size(level)
        assert (start, start % whole, stop % whole) == (at, 0, 0)
        assert whole <= size or level == 0
        assert stop > start
        at = stop
    assert at == end


def test_blocks_of_a_chart_are_as_large_as_its_pieces_need() -> None:
    assert chart_block_size([1000], 1000) == 1
    assert chart_block_size([1001], 1000) == 2
    assert chart_block_size([100_000], 1000) == 128
    assert chart_block_size([50_000, 50_000], 1000) == 128
    assert chart_block_size([5, 3, 9], 2) == 16
    assert chart_block_size([], 10) == 1


def test_complete_blocks_never_change_while_points_are_appended() -> None:
    recorded = Recorded()
    size_before = 0
    seen: list[Point] = []
    for number in range(6000):
        recorded.add(math.sin(number) * number)
        if number % 37 == 0:
            size = chart_block_size([number + 1], 16)
            chart = recorded.chart(size)
            if size == size_before:
                whole = len(recorded.levels[0]) - 37
                whole -= whole % size
                assert [p for p in seen if p.idx < whole] == [p for p in chart if p.idx < whole]
            seen, size_before = chart, size


def test_when_the_block_size_doubles_no_new_points_appear_among_the_old() -> None:
    recorded = Recorded()
    for number in range(4096):
        recorded.add(math.sin(number * 1.7))
    assert set(recorded.chart(128)) <= set(recorded.chart(64))


@given(st.integers(0, 40_000))
@settings(max_examples=50, deadline=None)
def test_open_blocks_are_restored_from_rows(count: int) -> None:
    recorded = Recorded()
    for number in range(count):
        recorded.add(math.nan if number % 1000 == 5 else math.sin(number) * number)
    restored = OpenBlocks()
    for level, first in open_block_starts(count):
        for point in recorded.levels.get(level, []):
            if point.idx >= first:
                restored.restore(level, point)
        for part in recorded.summaries.get(level, []):
            if part.idx >= first:
                restored.restore_summary(level, part)

    def shown(open_blocks: OpenBlocks) -> list[tuple[list[Point], tuple[float, ...]]]:
        pairs = zip(open_blocks.selections, open_blocks.totals, strict=True)
        found = [(selection.points(), _fields(totals)) for selection, totals in pairs]
        while found and not found[-1][0]:
            found.pop()
        return found

    assert shown(restored) == shown(recorded.open_blocks)


def _fields(totals: Totals) -> tuple[float, ...]:
    return tuple(getattr(totals, name) for name in Totals.__slots__ if name != "sum")


def test_block_sizes_grow_by_the_fan_out() -> None:
    assert [block_size(level) for level in range(4)] == [1, 64, 512, 4096]


def test_an_empty_block_selects_no_point() -> None:
    assert Selection().points() == []
    assert list(cover(0, 0, 8)) == []
