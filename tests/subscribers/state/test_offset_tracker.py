"""Batches end in any order, and the cursor never passes one that is open."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lineside.subscribers.state.offset_tracker import OffsetTracker


@given(st.permutations(range(1, 9)))
def test_the_cursor_is_behind_the_oldest_open_batch(order: list[int]) -> None:
    tracker = OffsetTracker()
    for offset in range(1, 9):
        tracker.add(offset * 10)
    finished: set[int] = set()
    for offset in order:
        tracker.finish(offset * 10)
        tracker.finish(offset * 10)
        finished.add(offset)
        expected = next(n for n in range(1, 10) if n not in finished) - 1
        assert tracker.processed == expected * 10
        assert tracker.open_count == 8 - expected
