"""The checkpoints of a job of several ranks are held with the files of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.checkpoints.hold import holds_of
from tests.emitter.ranks.conftest import Job
from tests.emitter.streams import data_of

pytestmark = pytest.mark.long


def test_a_hold_has_the_files_that_another_rank_wrote_after_rank_0_had_gone_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LINESIDE_HOLD_CHECKPOINTS", "1")
    job.start(2, steps=6, save_steps=2, save_total_limit=1, late_save=0.7, late=0.0)
    job.end()
    held = [
        (producer, event.step, data_of(event)["hold"])
        for (_, producer), events in job.events().items()
        for event in events
        if event.kind == "checkpoint_held"
    ]
    holds = holds_of(job.output)
    assert [path.name for path in job.checkpoints()] == ["checkpoint-6"]
    assert held == [
        ("rank0", int(hold.name.removeprefix("checkpoint-")), str(hold)) for hold in holds
    ]
    assert [hold.name for hold in holds] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for hold in holds:
        assert job.complete_checkpoint <= {file.name for file in hold.iterdir()}
