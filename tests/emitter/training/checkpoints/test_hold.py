"""Holds in places that a small Trainer does not reach."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from lineside.bus.checkpoints import hold as holds
from lineside.bus.checkpoints.hold import HoldLimits, hold_path, holds_of
from lineside.emitter.training.checkpoints.hold import CheckpointHolder
from lineside.emitter.training.publisher import Publisher
from tests.support.waiting import wait_until


class Events:
    """In place of a Publisher: the data of each event."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def emit(self, kind: str, step: int, epoch: object, control: int, data: Any, now: int) -> None:
        assert kind == "checkpoint_held"
        self.data.append(data)


def save(checkpoint: Path, **files: str) -> Path:
    checkpoint.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (checkpoint / name).write_text(content)
    return checkpoint


def held(holder: CheckpointHolder, checkpoint: Path, step: int = 1) -> dict[str, Any]:
    """Hold it and return the data of the event."""
    events = Events()
    holder.hold(checkpoint, step, None)
    holder.finish(cast(Publisher, events))
    [data] = events.data
    return data


def test_trials_of_a_search_share_one_limit(tmp_path: Path) -> None:
    for trial in range(4):  # each trial is a training of its own
        holder = CheckpointHolder(tmp_path, lambda: HoldLimits(max_held=2))
        checkpoint = save(tmp_path / f"run-{trial}" / "checkpoint-1", weights=str(trial))
        data = held(holder, checkpoint)
        shutil.rmtree(checkpoint)
    assert [entry["checkpoint"] for entry in data["evicted"]] == [
        str(tmp_path / "run-0" / "checkpoint-1")
    ]
    left = holds_of(*tmp_path.iterdir())
    assert [(hold / "weights").read_text() for hold in left] == ["1", "2", "3"]


def test_holds_are_given_up_if_the_disk_has_no_room_for_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = CheckpointHolder(tmp_path, HoldLimits)
    for step in (1, 2, 3):
        held(holder, save(tmp_path / f"checkpoint-{step}", weights="10 bytes--"), step)
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert len(holds_of(tmp_path)) == 3
    disk = shutil.disk_usage(tmp_path)._replace(free=4106)
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    data = held(holder, save(tmp_path / "checkpoint-4", weights="25 bytes" + "-" * 17), 4)
    # A block of 4096 bytes, and 15 bytes are lacking.
    assert [(entry["step"], entry["why"]) for entry in data["evicted"]] == [
        (1, "the disk had no room for the next one"),
        (2, "the disk had no room for the next one"),
    ]
    assert [hold.name for hold in holds_of(tmp_path)] == ["checkpoint-3", "checkpoint-4"]


def test_the_step_of_an_evicted_one_of_an_earlier_process_is_read_from_no_other_name(
    tmp_path: Path,
) -> None:
    for name, step in (("epoch-3", 3000), ("checkpoint-4000", 4000)):
        held(CheckpointHolder(tmp_path, HoldLimits), save(tmp_path / name, weights="w"), step)
        shutil.rmtree(tmp_path / name)
    data = held(
        CheckpointHolder(tmp_path, lambda: HoldLimits(max_held=0)),
        save(tmp_path / "last", weights="w"),
    )
    assert {Path(one["checkpoint"]).name: one["step"] for one in data["evicted"]} == {
        "epoch-3": None,
        "checkpoint-4000": 4000,
    }


def test_another_rank_adds_nothing_to_the_hold_of_an_earlier_save(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint-1", weights="old")
    held(CheckpointHolder(tmp_path, HoldLimits), checkpoint)
    shutil.rmtree(checkpoint)
    save(checkpoint, weights="new", rng_state_1="rank 1")
    other = CheckpointHolder(tmp_path, lambda: None, rank=1)
    other.hold(checkpoint, 1, None)
    other.finish(cast(Publisher, Events()))
    assert [file.name for file in hold_path(checkpoint).iterdir()] == ["weights"]


def test_what_another_rank_writes_after_it_came_before_rank_0_is_held(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint-1", rng_state_1="rank 1")
    other = CheckpointHolder(tmp_path, lambda: None, rank=1)
    other.hold(checkpoint, 1, None)
    held(CheckpointHolder(tmp_path, HoldLimits), checkpoint)
    save(checkpoint, later_callback="rank 1")
    other.finish(cast(Publisher, Events()))
    assert {file.name for file in hold_path(checkpoint).iterdir()} == {
        "rng_state_1",
        "later_callback",
    }


def test_a_training_that_is_killed_while_it_makes_a_hold_leaves_none(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint-1", config="c", weights="w", optimizer="o")
    script = """
import os, signal, sys
from pathlib import Path
from lineside.bus.checkpoints.hold import HoldLimits
from lineside.emitter.training.checkpoints.hold import CheckpointHolder
link, links = os.link, []
def killing_link(*args, **options):
    if len(links) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    links.append(link(*args, **options))
os.link = killing_link
CheckpointHolder(Path(sys.argv[1]).parent, HoldLimits).hold(Path(sys.argv[1]), 1, None)
"""
    ended = subprocess.run([sys.executable, "-c", script, checkpoint], timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert holds_of(tmp_path) == []
    assert holds.remove_hold(hold_path(checkpoint))  # as the archiver does at the end
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_folder_becomes_a_file_and_a_file_a_folder(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint-1", model="one file")
    save(checkpoint / "optimizer", shard="s")
    holder, events = CheckpointHolder(tmp_path, HoldLimits), Events()
    holder.hold(checkpoint, 1, None)
    (checkpoint / "model").unlink()
    save(checkpoint / "model", shard="many")
    shutil.rmtree(checkpoint / "optimizer")
    save(checkpoint, optimizer="one file")
    holder.finish(cast(Publisher, events))
    hold = hold_path(checkpoint)
    assert (hold / "model" / "shard").read_text() == "many"
    assert (hold / "optimizer").read_text() == "one file"
    assert events.data[0]["files"] == 2
    assert [path.name for path in hold.parent.iterdir()] == ["checkpoint-1"]


def test_a_second_look_that_fails_gives_up_the_hold_and_states_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    checkpoint = save(tmp_path / "checkpoint-1", weights="w")
    holder, events = CheckpointHolder(tmp_path, HoldLimits), Events()
    holder.hold(checkpoint, 1, None)
    save(checkpoint, merged="m")
    monkeypatch.setattr("os.link", full)
    holder.finish(cast(Publisher, events))
    [data] = events.data
    assert data["hold"] is None
    assert data["why"] == (
        f"its files cannot be linked into {tmp_path}/_lineside: No space left on device"
    )
    assert data["files"] == 2
    wait_until(lambda: [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"])


def test_a_hold_that_is_removed_by_hand_is_reported(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint-1", weights="w")
    holder, events = CheckpointHolder(tmp_path, HoldLimits), Events()
    holder.hold(checkpoint, 1, None)
    shutil.rmtree(tmp_path / "_lineside")
    holder.finish(cast(Publisher, events))
    assert events.data[0]["why"] == f"{hold_path(checkpoint)} was removed"


def test_a_checkpoint_that_is_not_there_is_reported(tmp_path: Path) -> None:
    data = held(CheckpointHolder(tmp_path, HoldLimits), tmp_path / "checkpoint-1")
    assert (data["hold"], data["why"]) == (None, f"there is no {tmp_path}/checkpoint-1")
    assert list(tmp_path.iterdir()) == []


def test_a_hold_is_made_while_the_archiver_removes_the_folder_of_holds(tmp_path: Path) -> None:
    archiver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys\n"
            "while os.path.exists(sys.argv[1]):\n"
            "    try: os.rmdir(sys.argv[1] + '/_lineside')\n"
            "    except OSError: pass\n",
            tmp_path,
        ]
    )
    try:
        holder = CheckpointHolder(tmp_path, HoldLimits)
        for step in range(50):
            checkpoint = save(tmp_path / f"checkpoint-{step}", weights="w")
            assert held(holder, checkpoint, step)["why"] is None
            holds.remove_hold(hold_path(checkpoint))
    finally:
        archiver.kill()
        archiver.wait()


def test_the_end_of_a_process_does_not_wait_for_the_removal_of_holds(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from lineside.bus.checkpoints.hold import HoldLimits
from lineside.emitter.training.checkpoints import hold
hold.remove_leftovers = lambda *_, **__: time.sleep(600)
(Path(sys.argv[1]) / "_lineside" / ".gone-1").mkdir(parents=True)
hold.CheckpointHolder(Path(sys.argv[1]), HoldLimits)
print("ends")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("ends\n", "", 0)
