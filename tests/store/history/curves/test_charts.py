"""Metrics and timing as curves: which values become points, and what a chart of them shows."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import Engine

from lineside.bus.errors import RunNotFound, UsageError
from lineside.store.database.tables import TIMING
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, START, FakeJournal, FakeProducer


def evaluate(trainer: FakeProducer, **metrics: float) -> None:
    """Log the metrics and then emit ``evaluate``, as a Trainer does."""
    trainer.log(**metrics)
    trainer.emit("evaluate", {"metrics": metrics})


def test_evaluation_metrics_that_were_logged_are_points_once(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    evaluate(trainer, eval_loss=2.0, eval_bad=math.nan)
    # The same values at the same step are another evaluation.
    evaluate(trainer, eval_loss=2.0, eval_bad=math.nan)
    journal.deliver(trainer)
    assert history.points("run", "eval_loss").y == [2.0, 2.0]
    assert history.points("run", "eval_bad").total == 2
    assert history.run("run").event_counts["evaluate"] == 2


def test_the_log_before_an_evaluation_is_loaded_again_after_a_kill(
    engine: Engine, history: History
) -> None:
    trainer = FakeProducer()
    offsets = FakeJournal(Writer(engine))
    trainer.log(eval_loss=2.0)
    offsets.deliver(trainer)
    trainer.emit("evaluate", {"metrics": {"eval_loss": 2.0, "eval_new": 1.0}})
    offsets.writer = Writer(engine)
    offsets.deliver(trainer)
    trainer.emit("evaluate", {"metrics": {"eval_loss": 2.0}})
    offsets.writer = Writer(engine)
    offsets.deliver(trainer)
    assert history.points("run", "eval_loss").y == [2.0, 2.0]
    assert history.points("run", "eval_new").y == [1.0]


def test_an_unreadable_log_owns_no_metric_of_the_evaluation_after_it(
    engine: Engine, history: History
) -> None:
    trainer = FakeProducer()
    journal = FakeJournal(Writer(engine))
    trainer.emit("log", {"logs": 5})
    journal.deliver(trainer)
    journal.writer = Writer(engine)
    trainer.emit("evaluate", {"metrics": {"before": 1.0}})
    journal.deliver(trainer)
    assert history.points("run", "before").y == [1.0]


def test_an_evaluation_is_one_point_though_log_and_evaluate_differ(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.log(eval_loss=0.693, eval_reward=1.0)
    trainer.log(eval_gap=0.5)  # a callback's, in its on_evaluate
    trainer.emit("evaluate", {"metrics": {"eval_loss": 0.6931, "eval_runtime": 2.0}})
    journal.deliver(trainer)
    names = ("eval_loss", "eval_reward", "eval_gap", "eval_runtime")
    curves = [history.points("run", name).y for name in names]
    assert curves == [[0.693], [1.0], [0.5], [2.0]]


def test_an_evaluation_within_another_is_one_point_of_each(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    for inner in ({"eval_other_loss": 3.0}, {"eval_loss": 2.0}):
        trainer.step += 1
        trainer.log(eval_loss=1.0)
        evaluate(trainer, **inner)  # a callback's, in its on_evaluate
        trainer.emit("evaluate", {"metrics": {"eval_loss": 1.0}})
    journal.deliver(trainer)
    assert history.points("run", "eval_loss").y == [1.0, 1.0, 2.0]
    assert history.points("run", "eval_other_loss").y == [3.0]


def test_metrics_that_were_not_logged_are_points(journal: FakeJournal, history: History) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.log(loss=1.0)
    trainer.emit("predict", {"metrics": {"test_loss": 3.0, "text": "no"}})
    trainer.emit("predict", {"metrics": {"test_loss": 3.0}})
    # Logged at another step, so not the same evaluation.
    trainer.log(eval_loss=1.0)
    trainer.step = 5
    trainer.emit("evaluate", {"metrics": {"eval_loss": 1.0}})
    journal.deliver(trainer)
    assert history.points("run", "test_loss").y == [3.0, 3.0]
    assert history.points("run", "eval_loss").y == [1.0, 1.0]


def test_an_evaluation_whose_log_is_missing_is_a_point(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    evaluate(trainer, eval_loss=1.0)
    journal.deliver(trainer)
    trainer.log(eval_loss=2.0)
    trainer.take_events()
    trainer.emit("evaluate", {"metrics": {"eval_loss": 2.0}})
    journal.deliver(trainer)
    assert history.points("run", "eval_loss").y == [1.0, 2.0]


def test_metrics_have_their_number_of_points_and_their_range(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    for value in (3.0, -1.0, math.nan, 2.0, math.inf):
        trainer.step += 1
        trainer.log(loss=value)
    trainer.log(nothing=math.nan)
    journal.deliver(trainer)
    loss, nothing = history.metrics("run")
    assert (loss.name, loss.count, loss.min, loss.max) == ("loss", 5, -1.0, 3.0)
    assert (loss.last, loss.last_step, loss.attempt) == (math.inf, 5, ATTEMPT)
    assert (nothing.min, nothing.max) == (None, None)
    assert math.isnan(nothing.last)
    metrics = history.run("run").metrics
    assert metrics["loss"] == math.inf
    assert history.points("run", "loss").sum == 4.0


def test_a_sum_beyond_a_double_is_none(journal: FakeJournal, history: History) -> None:
    trainer = FakeProducer()
    for value in (1e308, 1e308, -1e308):
        trainer.log(big=value)
    journal.deliver(trainer)
    points = history.points("run", "big")
    assert (points.sum, points.y) == (None, [1e308, 1e308, -1e308])


@pytest.fixture
def long_run(journal: FakeJournal) -> int:
    """A curve of 20,000 points with spikes in it, and its number of points."""
    trainer = FakeProducer()
    count = 20_000
    for step in range(count):
        trainer.step, trainer.epoch = step, step / 1000
        value = math.sin(step / 500)
        if step in (4321, 15_000):
            value = 100.0 if step == 4321 else -100.0
        if step in (777, 778, 12_345):
            value = math.nan if step != 778 else -math.inf
        trainer.log(loss=value)
    journal.deliver(trainer)
    return count


def test_a_chart_keeps_every_extreme_and_every_point_that_is_not_finite(
    history: History, long_run: int
) -> None:
    chart = history.points("run", "loss", points=500)
    assert chart.downsampled
    assert chart.total == long_run
    assert len(chart.x) <= 510
    by_step = dict(zip(chart.step, chart.values, strict=True))
    assert by_step[4321] == 100.0
    assert by_step[15_000] == -100.0
    assert math.isnan(by_step[777])
    assert by_step[778] == -math.inf
    assert math.isnan(by_step[12_345])
    assert chart.flag[chart.step.index(778)] == "-inf"
    assert chart.step[0] == 0
    assert chart.step[-1] == long_run - 1
    assert chart.step == sorted(chart.step)
    assert chart.epoch[-1] == (long_run - 1) / 1000


def test_a_chart_by_time_has_the_same_points(history: History, long_run: int) -> None:
    by_step = history.points("run", "loss", points=200)
    by_time = history.points("run", "loss", points=200, x="time")
    assert by_time.x == by_time.time == by_step.time
    assert by_step.x == [float(step) for step in by_step.step]


def test_all_points_are_returned_without_a_limit(history: History, long_run: int) -> None:
    whole = history.points("run", "loss", points=None)
    assert not whole.downsampled
    assert whole.step == list(range(long_run))


def test_a_part_of_a_curve_comes_with_its_neighbours(history: History, long_run: int) -> None:
    part = history.points("run", "loss", start=100, end=110)
    assert part.step == list(range(99, 112))
    assert not part.downsampled
    assert part.total == long_run
    begin = START + 100 / 1000
    by_time = history.points("run", "loss", x="time", start=begin, end=begin + 0.01)
    assert by_time.step[1:-1] == pytest.approx(list(range(100, 110)), abs=1)
    assert history.points("run", "loss", start=1e9).step == [long_run - 1]
    assert history.points("run", "loss", end=-5).step == [0]
    assert history.points("run", "loss", start=10, end=5).step == []
    wide = history.points("run", "loss", start=10_000, end=19_000, points=100)
    assert wide.downsampled
    assert 15_000 in wide.step
    assert 12_345 in wide.step
    assert 4321 not in wide.step


def test_more_non_finite_points_than_wanted_are_reduced_to_the_first_of_each_block(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    for step in range(5000):
        trainer.step = step
        trainer.log(loss=math.nan if step >= 1000 else 1.0)
    journal.deliver(trainer)
    chart = history.points("run", "loss", points=100)
    assert len(chart.x) <= 125
    assert chart.flag.count("nan") > 10
    assert 1000 in chart.step


def test_a_metric_that_was_never_logged_has_no_points(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    journal.deliver(trainer)
    nothing = history.points("run", "nothing")
    assert (nothing.x, nothing.total, nothing.downsampled) == ([], 0, False)
    assert history.metrics("run") == []
    assert history.timing("run").wait.total == 0


def test_invalid_arguments_are_refused(journal: FakeJournal, history: History) -> None:
    trainer = FakeProducer()
    trainer.begin()
    journal.deliver(trainer)
    with pytest.raises(UsageError, match="step or time"):
        history.points("run", "loss", x="epoch")
    with pytest.raises(UsageError, match="1 or more"):
        history.points("run", "loss", points=0)
    with pytest.raises(
        UsageError, match=f"no attempt 'other': expected one of stitched, all, 1 .{ATTEMPT}"
    ):
        history.points("run", "loss", attempt="other")
    with pytest.raises(RunNotFound, match="no run 'missing' in the store; the newest are run"):
        history.points("missing", "loss")


def test_timing_uses_the_clock_of_the_training_machine(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    for compute, wait in ((0.1, 0.02), (0.5, 0.01), (0.2, 3.0)):
        trainer.do_step(compute, wait)
    trainer.emit("train_end")
    journal.deliver(trainer)
    timing = history.timing("run")
    assert timing.compute.step == [1, 2, 3]
    assert timing.compute.y == pytest.approx([0.1, 0.5, 0.2])
    # The time after the last step is no wait for the next one.
    assert timing.wait.step == [1, 2]
    assert timing.wait.y == pytest.approx([0.02, 0.01])
    assert timing.compute.sum == pytest.approx(0.8)
    assert history.metrics("run") == []


def test_a_gap_in_a_step_leaves_it_untimed(journal: FakeJournal, history: History) -> None:
    trainer = FakeProducer()
    trainer.do_step()
    journal.deliver(trainer)
    trainer.emit("step_begin")
    journal.deliver(trainer)
    trainer.emit("step_end")
    trainer.emit("step_begin")
    trainer.take_events()
    trainer.step += 2
    trainer.emit("step_end")
    trainer.do_step()
    journal.deliver(trainer)
    timing = history.timing("run")
    assert timing.compute.step == [1, 4]
    assert timing.wait.step == [1, 3]


def test_each_producer_has_its_own_curves(journal: FakeJournal, history: History) -> None:
    rank0, evaluator = FakeProducer(), FakeProducer(producer="evaluator")
    rank0.log(loss=1.0)
    evaluator.log(loss=2.0)
    journal.deliver(rank0, evaluator)
    assert history.points("run", "loss").y == [1.0]
    assert history.points("run", "loss", producer="evaluator").y == [2.0]
    assert [s.producer for s in history.metrics("run", producer="evaluator")] == ["evaluator"]
    assert history.run("run").metrics == {"loss": 1.0}


def test_points_timing_and_events_are_read_row_by_row(
    journal: FakeJournal, history: History
) -> None:
    first, second = FakeProducer(), FakeProducer(attempt=LATER_ATTEMPT, at=START + 3600)
    first.begin()
    for value in (1.0, math.nan):
        first.do_step(loss=value, lr=0.1)
    first.emit("step_begin")
    second.begin()
    second.step = 1
    second.emit("step_end")
    second.emit("step_begin")
    second.log(loss=5.0)
    journal.deliver(second, first)

    points = list(history.iter_points("run"))
    assert [(p.attempt, p.name, p.step) for p in points] == [
        (ATTEMPT, "loss", 1),
        (ATTEMPT, "loss", 2),
        (ATTEMPT, "lr", 1),
        (ATTEMPT, "lr", 2),
        (LATER_ATTEMPT, "loss", 1),
    ]
    assert math.isnan(points[1].value)
    only = history.iter_points("run", attempt=LATER_ATTEMPT, names=["loss"])
    assert [p.value for p in only] == [5.0]

    timing = list(history.iter_points("run", kind=TIMING))
    assert [(t.attempt, t.name, t.step) for t in timing] == [
        (ATTEMPT, "compute", 1),
        (ATTEMPT, "compute", 2),
        (ATTEMPT, "wait", 1),
        (ATTEMPT, "wait", 2),
        (LATER_ATTEMPT, "wait", 1),
    ]
    assert timing[0].value == pytest.approx(0.1)
    with pytest.raises(UsageError):
        list(history.iter_points("run", kind=TIMING, attempt="other"))

    events = list(history.iter_events("run"))
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    assert {e.attempt for e in history.iter_events("run", attempt=ATTEMPT)} == {ATTEMPT}
    with pytest.raises(RunNotFound):
        next(history.iter_points("missing"))


def test_steps_timed_only_in_part_have_only_that_part(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    for step in (1, 2, 3):
        trainer.step = step
        if step != 2:
            trainer.emit("step_begin")
        trainer.emit("step_end")
    trainer.emit("step_begin")
    journal.deliver(trainer)
    assert [(t.name, t.step) for t in history.iter_points("run", kind=TIMING)] == [
        ("compute", 1),
        ("compute", 3),
        ("wait", 2),
        ("wait", 3),
    ]


def test_numbers_in_nested_maps_are_curves_and_other_values_are_kept_as_text(
    engine: Engine, history: History
) -> None:
    trainer = FakeProducer()
    journal = FakeJournal(Writer(engine))
    trainer.begin()
    trainer.log(note="warm", rouge={"r1": 0.5, "by": {"en": 0.25}, "best": "r1"}, **{"a/b": 1.0})
    trainer.log(a={"b": 2.0}, bins=[1, 2.5, math.nan], none=None, long="x" * 3000)
    journal.deliver(trainer)
    journal.writer = Writer(engine)
    trainer.step = 7
    trainer.log(note="cold ü\0", tensor={"!": "tensor(…)"})
    trainer.emit("evaluate", {"metrics": {"rouge": {"r1": 0.75}}})
    journal.deliver(trainer)
    assert history.points("run", "rouge/r1").y == [0.5, 0.75]
    assert history.points("run", "rouge/by/en").y == [0.25]
    assert history.points("run", "a/b").y == [1.0, 2.0]
    assert {one.name: (one.step, one.text) for one in history.logged_values("run")} == {
        "bins": (0, "[1, 2.5, NaN]"),
        "long": (0, "x" * 2000 + " … (3,000 characters)"),
        "note": (7, "cold ü\N{REPLACEMENT CHARACTER}"),
        "rouge/best": (0, "r1"),
        "tensor": (7, "tensor(…)"),
    }
