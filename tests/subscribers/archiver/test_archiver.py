"""What becomes of the checkpoints of a run, event by event."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lineside.store.archive.errors import ArchiveUnavailable
from tests.subscribers.archiver.kit import FIRST, SECOND, ScriptedRun, same_files


@pytest.fixture
def run(tmp_path: Path) -> ScriptedRun:
    made = ScriptedRun(tmp_path)
    made.start()
    return made


def test_a_checkpoint_that_rotation_deleted_is_archived_from_its_hold(
    run: ScriptedRun, tmp_path: Path
) -> None:
    folder = run.save(10)
    hold = run.hold(10)
    shutil.copytree(folder, tmp_path / "expected")
    shutil.rmtree(folder)
    run.settle()
    assert run.states == {10: "archived"}
    assert same_files(run.restored(10, tmp_path / "restored"), tmp_path / "expected")
    assert not hold.exists()
    assert run.published(10) == ["waiting", "archived"]
    event = run.last_event(10)
    assert event["archive"].startswith(run.archive.url)
    assert (event["bytes"], event["files"], event["last"]) == (20, 2, True)
    assert event["time"] == pytest.approx(run.now, abs=5)
