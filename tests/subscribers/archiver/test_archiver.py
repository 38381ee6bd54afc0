"""What becomes of the checkpoints of a run, event by event."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from lineside.bus.checkpoints.hold import draft_path, hold_path
from lineside.subscribers.archiver import entry
from lineside.subscribers.context import RunFilter
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
    run.complete()
    assert run.states == {10: "archived"}
    assert same_files(run.restored(10, tmp_path / "restored"), tmp_path / "expected")
    assert not hold.exists()
    assert run.published(10) == ["waiting", "archived"]
    event = run.last_event(10)
    assert event["archive"].startswith(run.archive.url)
    assert (event["bytes"], event["files"], event["last"]) == (20, 2, True)
    assert event["time"] == pytest.approx(time.time(), abs=60)


def test_only_what_the_policy_keeps_stays_and_the_newest_is_copied_first(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, save_total_limit=2)
    run.start()
    for step in (1, 2, 3, 4):
        run.saved(step)
    run.complete()
    assert run.archived == [3, 4]
    assert run.states == {1: "skipped", 2: "skipped", 3: "archived", 4: "archived"}
    times = {
        key.step: run.archive.read_manifest(key).archived_at for key in run.archive.entries("r")
    }
    assert times[4] < times[3]
    run.saved(5)
    run.complete()
    assert run.archived == [4, 5]
    assert run.last_event(3)["why"] == "the policy keeps others"
    parts = {part for key in run.archive.entries("r") for part in _parts(run, key)}
    assert {path.name for path in (tmp_path / "archive").rglob("parts/*/*")} == parts
    assert not list(run.output.iterdir())


def test_the_best_by_an_evaluation_is_kept_beside_the_last(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, keep_best=1)
    run.start(args={"metric_for_best_model": "accuracy", "greater_is_better": True})
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
        run.send("evaluate", step, metrics={"eval_accuracy": accuracy})
        run.saved(step)
        run.complete()
    assert run.archived == [2, 3]
    assert run.last_event(2)["keep"] == ["best"]
    assert run.last_event(2)["metrics"] == {"eval_accuracy": 0.9}
    assert (run.last_event(2)["best"], run.last_event(3)["last"]) == (True, True)


def test_a_killed_archiver_copies_nothing_twice_and_releases_what_was_archived(
    run: ScriptedRun, tmp_path: Path
) -> None:
    hold = run.saved(10)
    run.tick(times=2)
    key = run.archive.entries("r")
    run.restart()  # killed between the end of the copy and the next tick
    run.complete()
    assert run.states == {10: "archived"}
    assert run.archive.entries("r") == key
    assert run.last_event(10)["sent"] == 0, "nothing was sent again"
    assert not hold.exists()


def test_a_lost_state_is_found_again_in_the_archive(tmp_path: Path, run: ScriptedRun) -> None:
    run.saved(10)
    run.complete()
    run.end()
    (tmp_path / "archiver.db").unlink()
    again = ScriptedRun(tmp_path)
    again.start()
    again.send("save", 10, checkpoint=str(run.output / "checkpoint-10"))
    again.complete()
    assert again.states == {10: "archived"}
    assert len(again.archive.entries("r")) == 1


def test_a_checkpoint_that_is_gone_is_evicted_and_the_others_go_on(run: ScriptedRun) -> None:
    shutil.rmtree(run.saved(1))
    run.saved(2)
    run.complete()
    assert run.states == {1: "evicted", 2: "archived"}
    assert "deleted before it was archived" in run.last_event(1)["why"]


def test_what_waits_for_an_archive_that_cannot_be_used_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file where the archive's folder was")
    run = ScriptedRun(tmp_path)
    run.start()
    run.saved(1)
    run.tick()
    run.saved(2)
    run.tick()
    for step in (1, 2):
        assert str(tmp_path / "archive") in run.last_event(step)["why"]
        assert run.last_event(step)["retry_at"] > run.now
    (tmp_path / "archive").unlink()
    run.complete(seconds=60)
    assert run.states == {1: "archived", 2: "archived"}
    assert [run.last_event(step)["why"] for step in (1, 2)] == [None, None]


def test_a_hold_that_made_room_is_evicted_with_the_reason_of_training(run: ScriptedRun) -> None:
    shutil.rmtree(run.saved(1))
    run.save(2)
    run.hold(2, evicted=[{"checkpoint": str(run.output / "checkpoint-1"), "step": 1, "why": "5"}])
    run.complete()
    assert run.states == {1: "evicted", 2: "archived"}
    assert run.last_event(1)["why"] == "5"


def test_a_rank_that_is_late_is_waited_for(run: ScriptedRun, tmp_path: Path) -> None:
    run.start(world_size=2)
    run.write(10, files=("rng_state_0.pth", "trainer_state.json", "optimizer.pt"))
    run.save(10)
    run.hold(10)
    run.tick(times=5)
    assert run.states == {10: "waiting"}
    assert "rng_state_1.pth" in run.last_event(10)["why"]
    for name in ("rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"):
        _write_zip(run.output / "_lineside" / "checkpoint-10" / name)
    _write_state(run.output / "_lineside" / "checkpoint-10")
    run.complete()
    assert run.states == {10: "archived"}


def test_what_never_becomes_whole_is_given_up_and_its_hold_removed(run: ScriptedRun) -> None:
    run.write(10, files=("checkpoint-is-incomplete.txt",))
    run.save(10)
    hold = run.hold(10)
    run.tick(60, times=9)
    assert run.states == {10: "waiting"}
    run.complete(seconds=60)
    assert run.states == {10: "incomplete"}
    assert "checkpoint-is-incomplete.txt" in run.last_event(10)["why"]
    assert not hold.exists()
    run.write(20, files=("checkpoint-is-incomplete.txt",))
    run.save(20)
    run.hold(20)
    run.send("run_end", 20, how="exception")
    run.tick(5, times=8)
    assert run.states[20] == "incomplete", "after the end of the training nothing is to come"


def test_a_checkpoint_that_training_did_not_pass_on_is_copied_from_its_folder(
    run: ScriptedRun,
) -> None:
    run.save(10)
    run.tick(times=5)
    assert run.states == {10: "waiting"}
    run.complete()
    assert run.states == {10: "archived"}
    run.save(20)
    run.send("process_lost", producer="shipper", attempt="x", producer_=0)
    run.runner.run.stays = True
    run.complete()
    assert run.archived == [10, 20]


def test_a_checkpoint_that_is_a_file_is_copied_without_a_hold_too(
    run: ScriptedRun, tmp_path: Path
) -> None:
    file = run.output / "model.npz"
    file.write_text("weights")
    run.send("save", 10, checkpoint=str(file))
    run.complete()
    assert run.states == {10: "archived"}
    assert (run.restored(10, tmp_path / "restored") / "model.npz").read_text() == "weights"


def test_a_draft_that_a_killed_training_left_of_a_hold_is_removed(run: ScriptedRun) -> None:
    draft = draft_path(hold_path(run.save(10)))
    draft.mkdir(parents=True)
    (draft / "config.json").write_text("{}")
    run.complete()
    assert run.states == {10: "archived"}
    assert [path.name for path in run.output.iterdir()] == ["checkpoint-10"]


def test_a_second_save_of_a_step_takes_the_place_of_the_first(
    run: ScriptedRun, tmp_path: Path
) -> None:
    run.saved(10, text="first")
    run.complete()
    [first] = run.archive.entries("r")
    run.saved(10, text="second")
    run.complete()
    [second] = run.archive.entries("r")
    assert second != first
    assert (run.restored(10, tmp_path / "r") / "weights.npz").read_text() == "second"


def test_a_save_whose_event_is_on_its_way_keeps_its_hold(run: ScriptedRun, tmp_path: Path) -> None:
    hold = run.saved(10, text="first")
    run.tick(times=2)  # copied, and not yet noted
    shutil.rmtree(hold)
    shutil.copytree(run.write(10, text="second"), hold, copy_function=os.link)
    run.tick(times=3)
    assert run.states == {10: "archived"}
    assert hold.exists()
    run.send("save", 10, checkpoint=str(run.output / "checkpoint-10"))
    run.hold(10)
    run.complete()
    assert (run.restored(10, tmp_path / "r") / "weights.npz").read_text() == "second"
    assert not hold.exists()


def test_a_resumed_attempt_saves_the_same_step_as_another_checkpoint(
    run: ScriptedRun, tmp_path: Path
) -> None:
    run.saved(10, text="first")
    run.complete()
    run.save(20)  # not passed on: the process was killed
    run.start(SECOND, resumed_from={"run": "r", "attempt": FIRST, "step": 10})
    run.saved(20, SECOND)
    run.complete()
    found = [(key.step, key.attempt) for key in run.archive.entries("r")]
    assert sorted(found) == [(10, FIRST), (20, SECOND)]
    states = {(one["attempt"], one["step"]): one for one in run.events}
    assert states[FIRST, 20]["state"] == "evicted"
    assert "saved there before it was archived" in states[FIRST, 20]["why"]
    assert "resumed_from" in states[FIRST, 10]["keep"] or run.keep == {}


def test_the_checkpoint_of_another_run_at_the_same_place_is_not_archived(
    run: ScriptedRun,
) -> None:
    folder = run.save(10)
    (folder / "lineside_run.json").write_text('{"run_id": "other"}')
    run.hold(10)
    run.complete()
    assert run.states == {10: "evicted"}
    assert run.last_event(10)["why"] == "run other has saved another checkpoint there"


def test_of_a_run_that_is_not_archived_no_hold_is_left(run: ScriptedRun) -> None:
    run.runs = RunFilter(["others-*"])
    run.restart()
    hold = run.saved(1)
    assert not hold.exists()
    run.tick(times=3)
    assert run.states == {}


def test_a_metric_that_never_comes_is_reported_once(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, keep_best=1, monitor=["eval_acc"])
    run.start()
    for step in range(1, 5):
        run.saved(step)
        run.complete()
    assert run.archived == [1, 2, 3, 4]
    [report] = run.reports
    assert "no checkpoint has the metric eval_acc of archive.monitor" in report


def test_of_too_many_checkpoints_the_oldest_that_were_given_up_are_forgotten(
    run: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "MAX_STATE_BYTES", 32 << 10)
    for step in range(150):
        run.send("save", step, checkpoint=f"{run.output}/checkpoint-{step}")
        run.tick(20)
    run.saved(150)
    run.complete()
    assert set(run.states.values()) == {"evicted", "archived"}
    assert run.states[150] == "archived"
    assert 0 not in run.states
    assert len(run.states) < 150


def test_archived_ones_that_were_forgotten_are_not_taken_over_again_without_room(
    run: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "MAX_STATE_BYTES", 24 << 10)
    for step in range(70):
        run.saved(step)
        run.complete()
    assert 0 not in run.states
    assert len(run.archived) == 70
    before = len(run.events)
    run.now += 7200
    run.saved(70)
    run.complete()
    assert len(run.events) - before < 10
    assert 0 not in run.states


def _parts(run: ScriptedRun, key: object) -> list[str]:
    return [part.sha256 for part in run.archive.read_manifest(key).parts()]  # type: ignore[arg-type]


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"")


def _write_state(folder: Path) -> None:
    (folder / "trainer_state.json").write_text('{"global_step": 10}')
