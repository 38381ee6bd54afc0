"""The curves of a run with several attempts: stitched, all, or of one."""

from __future__ import annotations

import math

import pytest

from lineside.bus.errors import UsageError
from lineside.store.history.curves.records import Points
from lineside.store.history.history import ALL, STITCHED, History
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, START, FakeJournal, FakeProducer

THIRD_ATTEMPT = "20231115T001320-cccc"


def attempt(
    name: str, first: int, last: int, loss: float, resumed: tuple[str | None, int] | None = None
) -> FakeProducer:
    """An attempt that logs ``loss`` at each of its steps."""
    place = [ATTEMPT, LATER_ATTEMPT, THIRD_ATTEMPT].index(name)
    trainer = FakeProducer(attempt=name, at=START + 3600 * place)
    checkpoint = resumed and {"run": "run", "attempt": resumed[0], "step": resumed[1]}
    trainer.begin(resumed_from=checkpoint)
    for step in range(first, last + 1):
        trainer.step = step - 1
        trainer.do_step(loss=loss)
    return trainer


@pytest.fixture
def resumed(journal: FakeJournal) -> None:
    """Steps 1 to 130, and from the checkpoint at 100 on steps 101 to 180."""
    journal.deliver(
        attempt(ATTEMPT, 1, 130, 9.0), attempt(LATER_ATTEMPT, 101, 180, 1.0, (ATTEMPT, 100))
    )


def segments(curve: Points) -> list[tuple[int | None, bool, int, int]]:
    """Number, whether superseded, first and last step of each segment."""
    return [
        (one.number, one.superseded, curve.step[one.first], curve.step[one.first + one.count - 1])
        for one in curve.segments
    ]


@pytest.mark.usefixtures("resumed")
def test_a_resumed_run_has_the_curve_that_training_went_through(history: History) -> None:
    curve = history.points("run", "loss", overview=True)
    assert curve.step == list(range(1, 181))
    assert curve.y == [9.0] * 100 + [1.0] * 80
    assert (curve.total, curve.sum, curve.attempt) == (180, 980.0, None)
    assert segments(curve) == [(1, False, 1, 100), (2, False, 101, 180)]
    assert curve.overview is not None
    assert curve.overview.mean == curve.y
    assert history.points("run", "loss", start=99, end=102).y == [9.0] * 3 + [1.0] * 3
    compute = history.timing("run").compute
    assert (compute.step, compute.total) == (list(range(1, 181)), 180)


@pytest.mark.usefixtures("resumed")
def test_all_attempts_have_the_superseded_points_too(history: History) -> None:
    curve = history.points("run", "loss", attempt=ALL, overview=True)
    assert segments(curve) == [(1, False, 1, 100), (1, True, 101, 130), (2, False, 101, 180)]
    assert (curve.total, len(curve.y)) == (210, 210)
    assert curve.overview is not None
    assert sum(curve.overview.count) == 180
    few = history.points("run", "loss", attempt=ALL, points=50)
    assert [number for number, *_ in segments(few)] == [1, 1, 2]
    assert few.blocks is not None
    assert sum(few.blocks.means.count) == 180


@pytest.mark.usefixtures("resumed")
def test_one_attempt_is_named_or_numbered(history: History) -> None:
    for name in ("1", ATTEMPT):
        curve = history.points("run", "loss", attempt=name)
        assert (curve.step, curve.attempt) == (list(range(1, 131)), ATTEMPT)
        assert segments(curve) == [(1, False, 1, 130)]
    assert history.configuration("run", "2")["resumed_from"]["step"] == 100
    with pytest.raises(UsageError, match="no attempt '3': expected one of stitched, all, 1"):
        history.points("run", "loss", attempt="3")
    with pytest.raises(UsageError, match="no attempt 'all': expected one of 1"):
        history.configuration("run", "all")


@pytest.mark.usefixtures("resumed")
def test_the_run_has_the_step_after_which_each_attempt_is_superseded(history: History) -> None:
    assert [one.superseded_after for one in history.run("run").attempts] == [100, None]
    assert [one.superseded_after for one in history.runs().items[0].attempts] == [100, None]


@pytest.mark.usefixtures("resumed")
def test_the_export_of_the_stitched_run_has_no_superseded_point(history: History) -> None:
    rows = [(row.attempt, row.step) for row in history.iter_points("run", attempt=STITCHED)]
    assert rows == [(ATTEMPT, step) for step in range(1, 101)] + [
        (LATER_ATTEMPT, step) for step in range(101, 181)
    ]
    assert len(list(history.iter_points("run"))) == 210
    assert {row.attempt for row in history.iter_points("run", attempt="1")} == {ATTEMPT}


def test_metrics_are_those_of_the_points_that_count(journal: FakeJournal, history: History) -> None:
    first = attempt(ATTEMPT, 1, 100, 2.0)
    for value in (1e9, math.nan):
        first.do_step(loss=value, diverged=1.0)
    journal.deliver(first, attempt(LATER_ATTEMPT, 101, 101, 1.5, (ATTEMPT, 100)))
    (loss,) = history.metrics("run")
    assert (loss.count, loss.min, loss.max, loss.last, loss.last_step) == (101, 1.5, 2.0, 1.5, 101)
    diverged, loss = history.metrics("run", ALL)
    assert (diverged.count, loss.count, loss.max) == (2, 103, 1e9)
    only = attempt(THIRD_ATTEMPT, 100, 99, 0.0, (ATTEMPT, 99))
    journal.deliver(only)
    (loss,) = history.metrics("run")
    assert (loss.count, loss.last, loss.last_step, loss.attempt) == (99, 2.0, 99, ATTEMPT)


def test_an_attempt_that_another_one_replaced_is_superseded_as_a_whole(
    journal: FakeJournal, history: History
) -> None:
    journal.deliver(
        attempt(ATTEMPT, 1, 20, 3.0),
        attempt(LATER_ATTEMPT, 6, 30, 2.0, (ATTEMPT, 5)),
        attempt(THIRD_ATTEMPT, 11, 15, 1.0, (ATTEMPT, 10)),
    )
    assert segments(history.points("run", "loss")) == [(1, False, 1, 10), (3, False, 11, 15)]
    assert segments(history.points("run", "loss", attempt=ALL)) == [
        (1, False, 1, 10),
        (1, True, 11, 20),
        (2, True, 6, 30),
        (3, False, 11, 15),
    ]
    assert [one.superseded_after for one in history.run("run").attempts] == [10, -1, None]


def test_a_training_from_the_start_supersedes_the_attempts_before(
    journal: FakeJournal, history: History
) -> None:
    journal.deliver(attempt(ATTEMPT, 1, 20, 3.0), attempt(LATER_ATTEMPT, 1, 5, 2.0))
    assert history.points("run", "loss").y == [2.0] * 5
    evaluation = FakeProducer(attempt=THIRD_ATTEMPT, at=START + 9000)
    evaluation.emit("run_start", {})
    evaluation.log(eval_loss=1.0)
    journal.deliver(evaluation)
    # Only an evaluation: nothing that was trained is repeated.
    assert history.points("run", "loss").y == [2.0] * 5
    assert history.points("run", "eval_loss").y == [1.0]


def test_a_long_attempt_is_cut_at_the_very_step(journal: FakeJournal, history: History) -> None:
    first = FakeProducer()
    first.begin()
    for step in range(1, 3001):
        first.step = step
        first.log(loss=float(step))
    journal.deliver(first, attempt(LATER_ATTEMPT, 2346, 2400, 0.0, (ATTEMPT, 2345)))
    curve = history.points("run", "loss", points=None)
    assert curve.y == [*map(float, range(1, 2346)), *[0.0] * 55]
    assert curve.sum == sum(range(2346))
    few = history.points("run", "loss", points=100, overview=True)
    assert few.overview is not None
    assert (few.total, sum(few.overview.count)) == (2400, 2400)
    assert max(y for y in few.y if y is not None) == 2345.0
    (loss,) = history.metrics("run")
    assert (loss.count, loss.min, loss.max) == (2400, 0.0, 2345.0)
