"""What is new in the curves of runs, for a process that follows them."""

from __future__ import annotations

import math

from sqlalchemy import Engine

from lineside.store.history.curves.new_points import NewPoints, read_new_points
from tests.store.trainer import FakeJournal, FakeProducer


def by_name(found: list[NewPoints]) -> dict[tuple[str, str], NewPoints]:
    return {(one.run, one.name): one for one in found}


def test_only_points_that_are_not_known_are_read_and_of_many_the_newest(
    journal: FakeJournal, engine: Engine
) -> None:
    trainer, other = FakeProducer(), FakeProducer(run="other")
    for one in (trainer, other):
        one.begin()
    for step in range(5):
        trainer.do_step(loss=math.nan if step == 3 else float(step), lr=0.1)
    other.do_step(loss=7.0)
    journal.deliver(trainer, other)

    found = by_name(read_new_points(engine, ["run", "other"], {}, 3))
    loss = found["run", "loss"]
    assert (loss.producer, loss.kind, loss.n) == ("rank0", "metric", 5)
    assert [point.step for point in loss.points] == [3, 4, 5]
    assert [str(point.value) for point in loss.points] == ["2.0", "nan", "4.0"]
    assert [point.value for point in found["other", "loss"].points] == [7.0]
    assert found["run", "compute"].kind == "timing"

    known = {one.series_id: one.n for one in found.values()}
    assert read_new_points(engine, ["run", "other"], known, 3) == []
    trainer.do_step(loss=9.0)
    journal.deliver(trainer)
    again = by_name(read_new_points(engine, ["run", "other"], known, 3))
    assert [point.value for point in again["run", "loss"].points] == [9.0]
    assert ("run", "lr") not in again
    assert read_new_points(engine, [], {}, 3) == []
