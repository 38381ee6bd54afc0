"""Metrics that producers beside the training publish for a run."""

from __future__ import annotations

import pytest

from lineside.bus.errors import RunNotFound
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, START, FakeJournal, FakeProducer


def beside(producer: str, attempt: str = "20231114T230000-eeee", at: float = START) -> FakeProducer:
    return FakeProducer(producer=producer, attempt=attempt, at=at)


def report(producer: FakeProducer, step: int, **metrics: float) -> None:
    producer.emit("metrics", {"metrics": metrics}, step=step)


def trained(**logs: float) -> FakeProducer:
    trainer = FakeProducer()
    trainer.begin()
    trainer.do_step(**logs)
    return trainer


def test_metrics_of_other_producers_are_listed_after_those_of_rank_0(
    journal: FakeJournal, history: History
) -> None:
    evaluator, sampler = beside("evaluator"), beside("sampler-a")
    report(evaluator, 1, loss=3.0, bleu=0.5)
    report(sampler, 1, gpu=80.0)
    journal.deliver(sampler, trained(loss=1.0), evaluator)
    found = history.metrics("run")
    assert [(one.producer, one.name, one.last) for one in found] == [
        ("rank0", "loss", 1.0),
        ("evaluator", "bleu", 0.5),
        ("evaluator", "loss", 3.0),
        ("sampler-a", "gpu", 80.0),
    ]
    assert [one.name for one in history.metrics("run", producer="sampler-a")] == ["gpu"]
    assert history.run("run").metrics == {"loss": 1.0}


def test_a_curve_without_a_producer_is_rank_0s_if_rank_0_has_it(
    journal: FakeJournal, history: History
) -> None:
    evaluator = beside("evaluator")
    report(evaluator, 1, loss=3.0, bleu=0.5)
    journal.deliver(evaluator, trained(loss=1.0))
    assert history.points("run", "loss").y == [1.0]
    assert history.points("run", "loss", producer="evaluator").y == [3.0]
    bleu = history.points("run", "bleu")
    assert (bleu.producer, bleu.y) == ("evaluator", [0.5])
    assert history.points("run", "bleu", producer="rank0").y == []


def test_a_restarted_producer_continues_its_curve(journal: FakeJournal, history: History) -> None:
    first, second = (
        beside("evaluator", "20231114T230000-a"),
        beside("evaluator", "20231114T240000-b"),
    )
    for step in (1, 2, 3):
        report(first, step, loss=float(step))
    report(second, 4, loss=0.5)
    journal.deliver(trained(), second, first)
    curve = history.points("run", "loss")
    assert curve.step == [1, 2, 3, 4]
    assert (curve.total, curve.sum, curve.downsampled) == (4, 6.5, False)
    (series,) = history.metrics("run")
    assert (series.count, series.min, series.max) == (4, 0.5, 3.0)


def test_a_curve_beside_the_training_covers_all_attempts(
    journal: FakeJournal, history: History
) -> None:
    later = FakeProducer(attempt=LATER_ATTEMPT, at=START + 3600)
    later.begin()
    sampler, bound = beside("sampler"), beside("evaluator", ATTEMPT)
    report(sampler, 1, gpu=80.0)
    report(bound, 1, bleu=0.5)
    journal.deliver(trained(loss=1.0), later, sampler, bound)
    names = {
        attempt: [one.name for one in history.metrics("run", attempt)]
        for attempt in (LATER_ATTEMPT, ATTEMPT)
    }
    assert names == {LATER_ATTEMPT: ["gpu"], ATTEMPT: ["loss", "bleu", "gpu"]}
    found = {name: history.points("run", name, attempt=ATTEMPT) for name in ("loss", "bleu", "gpu")}
    assert {name: curve.attempt for name, curve in found.items()} == {
        "loss": ATTEMPT,
        "bleu": ATTEMPT,
        "gpu": None,
    }
    assert history.points("run", "bleu", attempt=LATER_ATTEMPT).total == 0


def test_a_part_of_a_curve_is_found_although_its_steps_go_back(
    journal: FakeJournal, history: History
) -> None:
    evaluator = beside("evaluator")
    for step in (400, 100, 200, 300):
        report(evaluator, step, loss=float(step))
    journal.deliver(trained(), evaluator)
    assert history.points("run", "loss").step == [100, 200, 300, 400]
    assert history.points("run", "loss", start=350).step == [300, 400]
    assert history.points("run", "loss", end=150.5).step == [100, 200]
    assert history.points("run", "loss", start=150, end=250).step == [100, 200, 300]
    assert history.points("run", "loss", start=210, end=290).step == [200, 300]
    assert history.points("run", "loss", start=500).step == [400]
    assert history.points("run", "loss", x="time").step == [400, 100, 200, 300]


def test_a_producer_that_repeats_steps_after_a_restart_has_one_curve_in_order(
    journal: FakeJournal, history: History
) -> None:
    first = beside("evaluator", "20231114T230000-a")
    second = beside("evaluator", "20231114T240000-b", START + 60)
    for step in range(100):
        report(first, step, loss=1.0)
        report(second, step, loss=2.0)
    journal.deliver(trained(), first, second)
    curve = history.points("run", "loss")
    assert curve.step == sorted(2 * list(range(100)))
    assert curve.y == [1.0, 2.0] * 100
    short = history.points("run", "loss", points=50)
    assert short.downsampled
    assert short.step == sorted(short.step)
    assert (short.total, short.sum) == (200, 300.0)


def test_metrics_change_neither_the_step_nor_the_attempts_of_the_run(
    journal: FakeJournal, history: History
) -> None:
    evaluator = beside("evaluator")
    report(evaluator, 99, loss=1.0)
    journal.deliver(evaluator)
    with pytest.raises(RunNotFound):
        history.run("run")
    journal.deliver(trained())
    run = history.run("run")
    assert (run.step, len(run.attempts)) == (1, 1)
    assert history.points("run", "loss").step == [99]


def test_metrics_without_a_map_are_kept_with_a_problem(
    journal: FakeJournal, history: History
) -> None:
    evaluator = beside("evaluator")
    evaluator.emit("metrics", {"metrics": 3})
    journal.deliver(trained(), evaluator)
    (event,) = history.events("run", kinds=["metrics"]).items
    assert event.problem == "metrics has no map 'metrics': got 3"


def test_metrics_for_a_deleted_run_are_not_kept(
    writer: Writer, journal: FakeJournal, history: History
) -> None:
    evaluator = beside("evaluator")
    report(evaluator, 1, loss=1.0)
    journal.deliver(trained(), evaluator)
    writer.delete_run("run")
    report(evaluator, 2, loss=2.0)
    journal.deliver(evaluator)
    later = FakeProducer(attempt="20991114T231320-bbbb")
    later.begin()
    report(evaluator, 3, loss=3.0)
    journal.deliver(later, evaluator)
    assert history.points("run", "loss").y == [3.0]
    assert len(history.events("run", kinds=["metrics"]).items) == 1


def test_the_export_has_the_producer_of_each_point(journal: FakeJournal, history: History) -> None:
    evaluator = beside("evaluator")
    report(evaluator, 1, bleu=0.5)
    journal.deliver(trained(loss=1.0), evaluator)
    rows = [(row.producer, row.name, row.value) for row in history.iter_points("run")]
    assert rows == [("rank0", "loss", 1.0), ("evaluator", "bleu", 0.5)]
