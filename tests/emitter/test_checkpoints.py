"""Checkpoints that a real Trainer saves and deletes, as the history has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Stream
from lineside.emitter import LinesideCallback
from lineside.store.database.engine import open_store
from lineside.store.history.checkpoints import Checkpoint
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all
from tests.support.tiny_trainer import trainer

# transformers warns if two checkpoints are saved within the resolution of the clock.
pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")

LOSSES = {2: 1.0, 4: 0.5, 6: 0.8, 8: 0.9}


class Scripted(Trainer):
    """Has the second checkpoint as its best."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_loss": LOSSES[self.state.global_step]}
        self.log(dict(metrics))
        on_evaluate = self.callback_handler.on_evaluate
        self.control: Any = on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def train(output: str, limit: int | None, *, resume: bool = False, **changes: Any) -> None:
    usual = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "save_total_limit": limit}
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    made = trainer(
        Path(output),
        LinesideCallback(run_id="run"),
        kind=Scripted,
        **{**usual, **evaluated, **changes},
    )
    made.train(resume_from_checkpoint=resume)
    close_all()


def recorded(spool_events: ReadSpool, folder: Path) -> list[Checkpoint]:
    """The checkpoints of the history that holds every event of the spool."""
    engine = open_store(f"sqlite:///{folder}/store.db", create=True)
    batches = [
        Batch(offset, Stream.parse(name), tuple(events), ())
        for offset, (name, events) in enumerate(sorted(spool_events().items()), start=1)
    ]
    Writer(engine).apply("journal", batches)
    found = History(engine).checkpoints("run")
    engine.dispose()
    return found


@pytest.mark.parametrize(("limit", "kept"), [(2, {4, 8}), (1, {4}), (None, {2, 4, 6, 8})])
def test_checkpoints_that_were_rotated_away_are_deleted_and_the_best_is_marked(
    home: Path,
    tmp_path: Path,
    spool_events: ReadSpool,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    kept: set[int],
) -> None:
    monkeypatch.chdir(tmp_path)
    train("out", limit)
    found = recorded(spool_events, tmp_path)
    assert {one.step for one in found if Path(one.path).is_dir()} == kept
    assert {one.step for one in found if not one.deleted} == kept
    assert [one.step for one in found if one.best] == [4]


def test_a_resumed_training_reports_what_was_deleted_or_overwritten_meanwhile(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    out = tmp_path / "out"
    usual: dict[str, Any] = {"load_best_model_at_end": False, "eval_strategy": "no"}
    train(str(out), None, max_steps=6, **usual)
    (out / "checkpoint-2").rename(tmp_path / "moved")
    (out / "checkpoint-6").rename(tmp_path / "newest")
    train(str(out), None, resume=True, **usual)
    found = recorded(spool_events, tmp_path)
    assert [(one.step, one.deleted) for one in found] == [
        (2, True),
        (4, False),
        (6, True),
        (6, False),
        (8, False),
    ]
