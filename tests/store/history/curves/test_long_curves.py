"""Means of long curves, and parts of curves whose steps or times go back."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
from sqlalchemy import Engine, select

from lineside.store.database.tables import blocks
from lineside.store.history.curves.charts import OVERVIEW_BLOCKS
from lineside.store.history.curves.records import Means
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import START, FakeJournal, FakeProducer


@pytest.fixture
def quick(sqlite_engine: Engine) -> tuple[FakeJournal, History]:
    """A journal and a history in SQLite alone, for tests of what no query decides."""
    return FakeJournal(Writer(sqlite_engine)), History(sqlite_engine)


def record(
    journal: FakeJournal, *logged: tuple[int, float], times: list[float] | None = None
) -> None:
    """Record a run with these steps and losses, and times after the start."""
    trainer = FakeProducer()
    for place, (step, value) in enumerate(logged):
        trainer.step = step
        if times is not None:
            trainer.time = START + times[place]
        trainer.log(loss=value)
    journal.deliver(trainer)


def skewed(count: int) -> list[float]:
    """Values whose extremes are far from their mean, about 2."""
    noise = random.Random(1)
    return [1.0 + noise.expovariate(1.0) for _ in range(count)]


def means(found: Means | None) -> Means:
    assert found is not None
    return found


def test_the_overview_has_the_mean_of_all_points_of_each_block(
    quick: tuple[FakeJournal, History],
) -> None:
    journal, history = quick
    values = skewed(20_000)
    record(journal, *enumerate(values))
    overview = means(history.points("run", "loss", overview=True).overview)
    assert overview.size == 32
    assert len(overview.mean) == 625 <= OVERVIEW_BLOCKS
    assert overview.mean == pytest.approx(
        [fmean(values[start : start + 32]) for start in range(0, 20_000, 32)]
    )
    assert (overview.start[1], overview.end[1], overview.count[1]) == (32.0, 63.0, 32)
    true_mean = fmean(values)
    assert fmean(m for m in overview.mean if m is not None) == pytest.approx(true_mean)
    # The points that a chart keeps are extremes: their mean is far from that of the curve.
    chart = history.points("run", "loss", points=500)
    assert fmean(chart.values) > 1.3 * true_mean


def test_the_overview_is_the_same_for_any_zoom_and_number_of_points(
    quick: tuple[FakeJournal, History],
) -> None:
    journal, history = quick
    record(journal, *enumerate(skewed(5000)))
    whole = history.points("run", "loss", overview=True).overview
    for points in (10, 5000):
        assert history.points("run", "loss", points=points, overview=True).overview == whole
    zoomed = history.points("run", "loss", start=2000, end=2100, overview=True)
    assert (zoomed.overview, len(zoomed.x)) == (whole, 103)
    by_time = history.points("run", "loss", x="time", start=START + 2, overview=True).overview
    assert means(by_time).mean == means(whole).mean
    assert history.points("run", "loss").overview is None


def test_a_curve_of_up_to_a_thousand_points_is_its_own_overview(
    quick: tuple[FakeJournal, History],
) -> None:
    journal, history = quick
    record(journal, (1, 2.0), (2, math.nan), (3, 4.0))
    overview = means(history.points("run", "loss", overview=True).overview)
    assert (overview.size, overview.mean, overview.count) == (1, [2.0, None, 4.0], [1, 0, 1])


def test_a_downsampled_curve_has_lowest_highest_and_mean_of_each_block(
    quick: tuple[FakeJournal, History],
) -> None:
    journal, history = quick
    values = skewed(10_000)
    record(journal, *enumerate(values))
    for start, end in ((0, 9999), (1000, 7777)):
        chart = history.points("run", "loss", points=400, start=start, end=end)
        assert chart.blocks is not None
        shown = chart.blocks.means
        assert (chart.downsampled, shown.size) == (True, 128)
        assert sum(shown.count) == min(end + 2, 10_000) - max(start - 1, 0)
        for place, (first, last) in enumerate(zip(shown.start, shown.end, strict=True)):
            block = values[int(first) : int(last) + 1]
            assert shown.count[place] == len(block)
            assert shown.mean[place] == pytest.approx(fmean(block))
            assert chart.blocks.low[place] == min(block)
            assert chart.blocks.high[place] == max(block)
    assert history.points("run", "loss", points=400, start=9, end=90).blocks is None


def test_a_zoom_has_every_point_of_steps_that_are_counted_anew_each_epoch(
    journal: FakeJournal, history: History
) -> None:
    logged = [(step, 10.0 * epoch + step / 100) for epoch in range(5) for step in range(100)]
    record(journal, *logged)
    assert history.points("run", "loss").y == [value for _, value in logged]
    zoomed = history.points("run", "loss", start=40, end=60)
    assert list(zip(zoomed.step, zoomed.y, strict=True)) == [
        (step, value) for step, value in logged if 39 <= step <= 61
    ]
    between = history.points("run", "loss", start=40.2, end=40.8)
    assert set(between.step) == {40, 41}
    assert set(history.points("run", "loss", start=500).step) == {99}
    few = history.points("run", "loss", start=40, end=60, points=20)
    assert few.downsampled
    assert set(few.step) <= set(range(39, 62))
    assert {few.y[0], max(y for y in few.y if y is not None)} == {0.39, 40.61}


def test_a_zoom_by_time_has_every_point_although_the_clock_was_set_back(
    journal: FakeJournal, history: History
) -> None:
    times = [float(second) for second in (*range(100), *range(30, 130))]
    record(journal, *((step, float(step)) for step in range(200)), times=times)
    by_time = history.points("run", "loss", x="time", start=START + 50, end=START + 60)
    assert by_time.step == [*range(49, 62), *range(119, 132)]
    assert history.points("run", "loss", start=95, end=104).step == list(range(94, 106))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_part_of_a_long_curve_in_any_order_is_every_point_in_it(
    sqlite_engine: Engine, seed: int
) -> None:
    journal, history = FakeJournal(Writer(sqlite_engine)), History(sqlite_engine)
    noise, steps, step = random.Random(seed), [], 0
    for _ in range(3000):
        step = max(0, step + noise.choice((1, 1, 1, 1, -3, 40, -60)))
        steps.append(step)
    times = [place - (500.0 if place > 1500 else 0.0) for place in range(3000)]
    record(journal, *((step, float(place)) for place, step in enumerate(steps)), times=times)
    for axis, places in (("step", [float(step) for step in steps]), ("time", times)):
        for _ in range(25):
            low, high = sorted(noise.uniform(-10, max(places) + 10) for _ in range(2))
            below = max((at for at in places if at < low), default=low)
            above = min((at for at in places if at > high), default=high)
            offset = START if axis == "time" else 0.0
            part = history.points(
                "run", "loss", x=axis, points=None, start=low + offset, end=high + offset
            )
            wanted = [place for place, at in enumerate(places) if below <= at <= above]
            assert part.y == [float(place) for place in wanted]


def test_blocks_are_the_same_after_each_restart_of_the_recorder(sqlite_engine: Engine) -> None:
    values = skewed(1500)
    whole, parts = FakeProducer("whole"), FakeProducer("parts")
    journal = FakeJournal(Writer(sqlite_engine))
    for place, value in enumerate(values):
        for trainer in (whole, parts):
            trainer.step = place
            trainer.log(loss=value)
        if place % 97 == 0:
            journal.writer = Writer(sqlite_engine)
            journal.deliver(parts)
    journal.deliver(whole, parts)
    rows: dict[int, list[tuple[object, ...]]] = {}
    with sqlite_engine.connect() as connection:
        for series_id, *row in connection.execute(select(blocks)):
            rows.setdefault(series_id, []).append(tuple(row[:3]))
        one, other = (
            connection.execute(select(blocks.c.sum).where(blocks.c.series_id == key))
            .scalars()
            .all()
            for key in rows
        )
    assert [places for places in rows.values() if places != rows[min(rows)]] == []
    assert len(one) == 23 + 2
    assert one == pytest.approx(other)
