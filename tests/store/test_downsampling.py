"""Downsampling of long curves: no selected point is lost, and none moves."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from lineside.store.database.values import encode_float
from lineside.store.downsampling import (
    BLOCK,
    FAN_OUT,
    MAX_SELECTED,
    NON_FINITE_LEVEL,
    Block,
    OpenBlocks,
    Point,
    block_size,
    downsample,
    open_block_starts,
    plan_reads,
)

values = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]),
)


class Recorded:
    """The rows of a series: points, and selected points by level."""

    def __init__(self) -> None:
        self.levels: dict[int, list[Point]] = {0: []}
        self.non_finite: list[Point] = []
        self.open_blocks = OpenBlocks()

    def add(self, value: float) -> None:
        count = len(self.levels[0])
        point = Point(count, count * 10, count / 2, None, *encode_float(value))
        self.levels[0].append(point)
        for level, selected in self.open_blocks.add(point):
            (
                self.levels.setdefault(level, []) if level != NON_FINITE_LEVEL else self.non_finite
            ).append(selected)

    def read(self, level: int, first: int, end: int) -> list[Point]:
        return [point for point in self.levels.get(level, []) if first <= point.idx < end]

    def chart(self, wanted: int) -> list[Point]:
        count = len(self.levels[0])
        size, reads = plan_reads(count, wanted)
        rows = [point for read in reads for point in self.read(*read)]
        return rows if size == 1 else downsample(rows, size)


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


@given(st.lists(values, max_size=1500), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_chart_has_the_selected_points_of_each_block(series: list[float], wanted: int) -> None:
    recorded = Recorded()
    for value in series:
        recorded.add(value)
    size, _ = plan_reads(len(series), wanted)
    assert recorded.chart(wanted) == reference(recorded.levels[0], size)
    assert recorded.non_finite == [point for point in recorded.levels[0] if point.value is None]


def test_a_chart_read_through_several_levels_is_the_one_from_all_points() -> None:
    recorded = Recorded()
    count = BLOCK * FAN_OUT * FAN_OUT + BLOCK * FAN_OUT * 3 + BLOCK * 5 + 7
    for number in range(count):
        recorded.add(math.sin(number / 50) + (1000.0 if number == 777 else 0.0))
    assert max(recorded.levels) == 3
    for wanted in (1, 4, 9, 50, 400, 3000, count - 1, count, count + 1):
        size, reads = plan_reads(count, wanted)
        assert recorded.chart(wanted) == reference(recorded.levels[0], size)
        assert size & (size - 1) == 0
        if wanted >= MAX_SELECTED:
            assert len(recorded.chart(wanted)) <= wanted
        read = sum(len(recorded.read(*part)) for part in reads)
        assert read <= max(wanted, 8) * FAN_OUT * MAX_SELECTED


def test_complete_blocks_never_change_while_points_are_appended() -> None:
    recorded = Recorded()
    wanted, size_before = 64, 0
    seen: list[Point] = []
    for number in range(6000):
        recorded.add(math.sin(number) * number)
        if number % 37 == 0:
            size, _ = plan_reads(number + 1, wanted)
            chart = recorded.chart(wanted)
            if size == size_before:
                whole = len(recorded.levels[0]) - 37
                whole -= whole % size
                assert [p for p in seen if p.idx < whole] == [p for p in chart if p.idx < whole]
            seen, size_before = chart, size


def test_when_the_block_size_doubles_no_new_points_appear_among_the_old() -> None:
    recorded = Recorded()
    for number in range(4096):
        recorded.add(math.sin(number * 1.7))
    small, large = downsample(recorded.levels[0], 64), downsample(recorded.levels[0], 128)
    assert set(large) <= set(small)


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

    def shown(open_blocks: OpenBlocks) -> list[list[Point]]:
        blocks = [block.selected() for block in open_blocks.blocks]
        while blocks and not blocks[-1]:
            blocks.pop()
        return blocks

    assert shown(restored) == shown(recorded.open_blocks)


def test_block_sizes_grow_by_the_fan_out() -> None:
    assert [block_size(level) for level in range(4)] == [1, 64, 512, 4096]


def test_an_empty_block_selects_no_point() -> None:
    assert Block().selected() == []
    assert downsample([], 8) == []
