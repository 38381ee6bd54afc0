"""The numbers at a checkpoint's step."""

from __future__ import annotations

import math

from sqlalchemy import Engine, update

from lineside.store.database import tables
from lineside.store.database.migrations.versions.v0006 import fill_metrics
from lineside.store.history.history import History
from tests.store.archiver import begun, save
from tests.store.trainer import FakeJournal


def test_a_checkpoint_has_the_numbers_logged_and_evaluated_at_its_step(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal)
    trainer.step = 1
    trainer.log(loss=9.0, early=1.0)
    trainer.step = 2
    trainer.log(loss=2.0)
    trainer.log(eval_loss=1.5)
    trainer.emit("evaluate", {"metrics": {"eval_loss": 1.5, "eval": {"f1": 0.7}}})
    save(trainer, 2, metrics={"loss": 1.9, "score": 3})
    save(trainer, 4)
    journal.deliver(trainer)
    trainer.emit("evaluate", {"metrics": {"eval_loss": 1.25}, "outside_training": True})
    trainer.emit("predict", {"metrics": {"test_loss": 7.0}})
    journal.deliver(trainer)
    second, fourth = history.checkpoints("run")
    assert second.metrics == {"loss": 1.9, "score": 3, "eval_loss": 1.5, "eval/f1": 0.7}
    assert fourth.metrics == {"eval_loss": 1.25}


def test_checkpoints_from_before_there_were_metrics_get_those_of_their_evaluation(
    journal: FakeJournal, history: History, engine: Engine
) -> None:
    trainer = begun(journal)
    for step in (2, 4):
        trainer.step = step
        trainer.emit(
            "evaluate",
            {
                "metrics": {
                    "eval_loss": math.nan if step == 2 else 0.5,
                    "eval": {"f1": 0.75, "at": "x"},
                }
            },
        )
        save(trainer, step)
    save(trainer, 6)
    journal.deliver(trainer)
    recorded = [dict(one.metrics) for one in history.checkpoints("run")]
    with engine.begin() as connection:
        connection.execute(update(tables.checkpoints).values(metrics=None))
        fill_metrics(connection)
    migrated = [dict(one.metrics) for one in history.checkpoints("run")]
    assert repr(migrated) == repr(recorded)
    assert recorded[1:] == [{"eval_loss": 0.5, "eval/f1": 0.75}, {}]
