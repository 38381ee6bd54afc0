"""Checkpoints that a real Trainer saves are held for the archiver, whatever becomes of them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from lineside.bus.checkpoints.hold import (
    HoldLimits,
    hold_path,
    holds_of,
    read_limits,
    reading,
    remove_hold,
    write_limits,
)
from lineside.bus.protocol.events import Event
from lineside.emitter import LinesideCallback
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, kinds, only
from tests.support.tiny_trainer import trainer
from tests.support.waiting import wait_until

# transformers warns if two checkpoints are saved within the resolution of the clock.
pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")

Digests = dict[str, str]


def digests(folder: Path) -> Digests:
    """The hash of each file in ``folder``, by its relative path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


class Saved(TrainerCallback):
    """The last callback: notes each checkpoint as it is once every callback has been called."""

    def __init__(self) -> None:
        self.checkpoints: dict[int, Digests] = {}

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.checkpoints[state.global_step] = digests(folder)


class OnSave(TrainerCallback):
    """Calls ``change(checkpoint)`` in its on_save."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.change(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def train(
    output: Path,
    *callbacks: TrainerCallback,
    ours: LinesideCallback | None = None,
    resume: bool = False,
    **changes: Any,
) -> None:
    usual: dict[str, Any] = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 1,
    }
    ours = LinesideCallback(run_id="run") if ours is None else ours
    trainer(output, ours, *callbacks, **(usual | changes)).train(resume_from_checkpoint=resume)
    close_all()


def held_events(events: list[Event]) -> dict[int, dict[str, Any]]:
    """The data of each ``checkpoint_held``, by its step."""
    return {event.step: data_of(event) for event in events if event.kind == "checkpoint_held"}


@pytest.fixture
def out(home: Path, tmp_path: Path) -> Path:
    """An output folder, in a home with an archiver."""
    write_limits(home, HoldLimits())
    return tmp_path / "out"


def test_every_checkpoint_outlives_rotation_as_it_was_saved(
    out: Path, spool_events: ReadSpool
) -> None:
    saved = Saved()
    train(out, saved)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-4"]
    holds = {step: out / "_lineside" / f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    assert {step: digests(hold) for step, hold in holds.items()} == saved.checkpoints
    assert held_events(only(spool_events())) == {
        step: {
            "checkpoint": str(out / f"checkpoint-{step}"),
            "hold": str(hold),
            "why": None,
            "bytes": sum(file.stat().st_size for file in hold.iterdir()),
            "files": len(saved.checkpoints[step]),
            "evicted": [],
        }
        for step, hold in holds.items()
    }


def test_a_hold_has_what_later_callbacks_wrote_replaced_and_removed(
    out: Path, spool_events: ReadSpool
) -> None:
    def change(checkpoint: Path) -> None:
        (checkpoint / "processor.json").write_text("new")
        (checkpoint / "merged" / "deep").mkdir(parents=True)
        (checkpoint / "merged" / "deep" / "model.safetensors").write_text("merged")
        weights = checkpoint / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()
        weights.write_bytes(content + b"value head")
        (checkpoint / "scheduler.pt").unlink()
        with (checkpoint / "optimizer.pt").open("ab") as file:
            file.write(b"in place")

    saved = Saved()
    train(out, OnSave(change), saved)
    for step, files in saved.checkpoints.items():
        assert digests(out / "_lineside" / f"checkpoint-{step}") == files
        assert "merged/deep/model.safetensors" in files
        assert "scheduler.pt" not in files
    held = held_events(only(spool_events()))
    assert {step: data["files"] for step, data in held.items()} == {
        step: len(files) for step, files in saved.checkpoints.items()
    }


def test_a_last_checkpoint_that_is_deleted_before_train_end_is_held_whole(
    out: Path, spool_events: ReadSpool
) -> None:
    def change(checkpoint: Path) -> None:
        (checkpoint / "processor.json").write_text("new")

    ours = LinesideCallback(run_id="run")
    made = trainer(
        out,
        ours,
        OnSave(change),
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    made.evaluate = lambda *_, **__: {"eval_loss": made.state.global_step}
    made.train()
    close_all()
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
    assert "processor.json" in digests(out / "_lineside" / "checkpoint-4")
    events = only(spool_events())
    assert held_events(events)[4]["files"] == len(digests(out / "_lineside" / "checkpoint-4"))
    last_held = max(i for i, event in enumerate(events) if event.kind == "checkpoint_held")
    assert last_held < kinds(events).index("train_end")


def test_a_checkpoint_is_held_if_a_later_callback_then_ends_the_training(
    out: Path, spool_events: ReadSpool
) -> None:
    def fail(checkpoint: Path) -> None:
        (checkpoint / "half").write_text("h")
        raise RuntimeError("later callback")

    with pytest.raises(RuntimeError, match="later callback"):
        train(out, OnSave(fail))
    close_all()
    events = only(spool_events())
    assert kinds(events)[-3:] == ["checkpoint_held", "train_error", "run_end"]
    assert "half" in digests(out / "_lineside" / "checkpoint-1")


def test_without_an_archiver_there_is_no_folder_of_holds_and_no_event(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    train(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint-4"}
    assert held_events(only(spool_events())) == {}


def test_a_training_that_runs_holds_from_the_archivers_start_to_its_end(
    home: Path, tmp_path: Path
) -> None:
    def switch(checkpoint: Path) -> None:
        step = int(checkpoint.name.removeprefix("checkpoint-"))
        if step in (2, 4):
            write_limits(home, HoldLimits() if step == 2 else None)

    train(tmp_path / "out", OnSave(switch), max_steps=6)
    assert [hold.name for hold in holds_of(tmp_path / "out")] == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize(
    ("variable", "argument", "archiver", "is_held"),
    [
        ("1", None, False, True),
        ("", True, False, True),
        ("0", True, True, False),
        ("1", False, False, True),
        ("", False, True, False),
    ],
)
def test_the_environment_decides_before_the_script_and_the_script_before_the_home(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    argument: bool | None,
    archiver: bool,
    is_held: bool,
) -> None:
    write_limits(home, HoldLimits() if archiver else None)
    monkeypatch.setenv("LINESIDE_HOLD_CHECKPOINTS", variable)
    ours = LinesideCallback(run_id="run", hold_checkpoints=argument)
    train(tmp_path / "out", ours=ours, max_steps=1)
    assert bool(holds_of(tmp_path / "out")) == is_held


def test_the_oldest_deleted_checkpoints_are_given_up_above_the_limit_and_reported(
    home: Path, out: Path, spool_events: ReadSpool
) -> None:
    write_limits(home, HoldLimits(max_held=2))
    train(out, max_steps=6)
    # At the save of 6, rotation had deleted 1 to 5.
    assert [hold.name for hold in holds_of(out)] == [f"checkpoint-{step}" for step in (4, 5, 6)]
    held = held_events(only(spool_events()))
    assert {step: data["evicted"] for step, data in held.items() if data["evicted"]} == {
        step + 3: [
            {
                "checkpoint": str(out / f"checkpoint-{step}"),
                "step": step,
                "why": "2 newer ones were waiting to be archived",
            }
        ]
        for step in (1, 2, 3)
    }
    wait_until(lambda: not list((out / "_lineside").glob(".*")))


def test_checkpoints_that_training_keeps_do_not_count(home: Path, out: Path) -> None:
    write_limits(home, HoldLimits(max_held=1))
    train(out, save_total_limit=None)
    assert len(holds_of(out)) == 4


def test_holds_above_the_limit_in_bytes_are_given_up(
    home: Path, out: Path, spool_events: ReadSpool
) -> None:
    train(out, max_steps=1)
    size = held_events(only(spool_events()))[1]["bytes"]
    shutil.rmtree(out)
    write_limits(home, HoldLimits(max_held=9, max_held_gb=2.5 * size / (1 << 30)))
    train(out)
    train(out, max_steps=6, resume=True)  # holds of an earlier process count too
    assert [hold.name for hold in holds_of(out)] == [f"checkpoint-{step}" for step in (4, 5, 6)]


def test_a_hold_that_the_archiver_reads_is_passed_over(
    home: Path, out: Path, spool_events: ReadSpool
) -> None:
    write_limits(home, HoldLimits(max_held=1))
    train(out, max_steps=2)
    first = out / "_lineside" / "checkpoint-1"
    with reading(first) as is_there:
        assert is_there
        train(out, max_steps=5, resume=True)
        assert holds_of(out)[0] == first
        assert "model.safetensors" in digests(first)
    assert [hold.name for hold in holds_of(out)] == ["checkpoint-1", "checkpoint-5"]


def test_what_a_crash_left_is_removed_when_training_begins(out: Path) -> None:
    train(out, max_steps=1)
    folder = out / "_lineside"
    (folder / ".gone-checkpoint-0-abc").mkdir()
    (folder / ".gone-checkpoint-0-abc" / "weights").write_text("w")
    (folder / ".new-abc").write_text("w")
    train(out, max_steps=2, resume=True)
    wait_until(lambda: not list(folder.glob(".*")))
    assert [hold.name for hold in holds_of(out)] == ["checkpoint-1", "checkpoint-2"]


def test_a_former_runs_hold_of_the_same_name_gives_way(out: Path) -> None:
    train(out, max_steps=1)
    hold = out / "_lineside" / "checkpoint-1"
    (hold / "of_the_first").write_text("x")
    shutil.rmtree(out / "checkpoint-1")
    saved = Saved()
    train(out, saved, ours=LinesideCallback(run_id="other"), max_steps=1)
    assert digests(hold) == saved.checkpoints[1]


def test_where_no_links_can_be_made_the_event_states_why_and_training_goes_on(
    out: Path, spool_events: ReadSpool
) -> None:
    elsewhere = Path("/dev/shm") / f"lineside-test-{os.getpid()}"  # noqa: S108
    if not elsewhere.parent.is_dir() or elsewhere.parent.stat().st_dev == out.parent.stat().st_dev:
        pytest.skip("there is no other file system")
    out.mkdir()
    elsewhere.mkdir()
    try:
        (out / "_lineside").symlink_to(elsewhere)
        train(out)
        assert list(elsewhere.glob("checkpoint-*")) == []
    finally:
        shutil.rmtree(elsewhere)
    data = held_events(only(spool_events()))[4]
    assert data["hold"] is None
    assert data["why"] == (
        f"its files cannot be linked into {out}/_lineside: Invalid cross-device link"
    )
    assert data["files"] == len(digests(out / "checkpoint-4"))


def test_where_no_folder_can_be_made_the_event_states_why_and_training_goes_on(
    out: Path, spool_events: ReadSpool
) -> None:
    out.mkdir()
    (out / "_lineside").write_text("a file")
    train(out, max_steps=1)
    data = held_events(only(spool_events()))[1]
    assert (data["hold"], data["why"]) == (
        None,
        f"its files cannot be linked into {out}/_lineside: Not a directory",
    )


def test_a_checkpoint_that_is_deleted_by_hand_stays_held(
    out: Path, spool_events: ReadSpool
) -> None:
    train(out, OnSave(shutil.rmtree), max_steps=1)
    data = held_events(only(spool_events()))[1]
    assert data["why"] is None
    assert "model.safetensors" in digests(Path(data["hold"]))


def test_a_released_hold_leaves_an_output_folder_as_without_lineside(out: Path) -> None:
    released = OnSave(lambda checkpoint: remove_hold(hold_path(checkpoint)))
    train(out, released)
    assert {path.name for path in out.iterdir()} == {"checkpoint-4"}


def test_holds_follow_a_relative_output_folder_and_a_second_trainer(
    home: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = LinesideCallback(run_id="run")
    train(Path("out"), ours=ours, max_steps=1)
    train(Path("other"), ours=ours, max_steps=1)
    assert holds_of(out, tmp_path / "other") == [
        hold_path(out / "checkpoint-1"),
        hold_path(tmp_path / "other" / "checkpoint-1"),
    ]
    assert read_limits(home) == HoldLimits()
