"""Names, locks and removal of holds, and the file that asks trainings for them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lineside.bus.checkpoints.hold import (
    HOLD_FILE,
    HoldLimits,
    draft_path,
    held_checkpoint,
    hold_path,
    holds_of,
    read_limits,
    reading,
    remove_hold,
    remove_leftovers,
    set_aside,
    write_limits,
)


def test_the_homes_file_asks_trainings_to_hold_until_it_is_removed(tmp_path: Path) -> None:
    limits = HoldLimits(max_held=2, max_held_gb=1.5)
    write_limits(tmp_path, limits)
    assert read_limits(tmp_path) == limits
    assert list(tmp_path.iterdir()) == [tmp_path / HOLD_FILE]
    write_limits(tmp_path, None)
    write_limits(tmp_path, None)
    assert read_limits(tmp_path) is None


def test_a_script_and_the_environment_decide_against_the_homes_file(tmp_path: Path) -> None:
    assert read_limits(tmp_path, wanted=True) == HoldLimits()
    write_limits(tmp_path, HoldLimits(max_held=3))
    assert read_limits(tmp_path, wanted=True) == HoldLimits(max_held=3)
    assert read_limits(tmp_path, wanted=False) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"max_held": -1, "max_held_gb": 0}',
        '{"max_held": "x"}',
        "null",
        '{"max_held": 1e999, "max_held_gb": 0}',
        "[" * 100_000,
    ],
)
def test_a_file_that_cannot_be_understood_asks_for_the_default_limits(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / HOLD_FILE).write_text(content)
    assert read_limits(tmp_path) == HoldLimits()


def test_the_limits_are_stored_by_name(tmp_path: Path) -> None:
    write_limits(tmp_path, HoldLimits(), "/mnt/archive")
    stored = json.loads((tmp_path / HOLD_FILE).read_text())
    assert stored == {"max_held": 5, "max_held_gb": 0.0, "archive": "/mnt/archive"}


def test_a_hold_is_beside_its_checkpoint_under_the_same_name(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-8"
    assert hold_path(checkpoint) == tmp_path / "_lineside" / "checkpoint-8"
    assert held_checkpoint(hold_path(checkpoint)) == checkpoint


def test_holds_are_listed_oldest_first_without_what_is_on_its_way_out(tmp_path: Path) -> None:
    assert holds_of(tmp_path) == []
    holds = [_make_hold(tmp_path, step) for step in (10, 9, 8)]
    for age, hold in enumerate(holds):
        os.utime(hold, (age, age))
    assert holds_of(tmp_path) == holds
    assert set_aside(holds[0])
    assert holds_of(tmp_path) == holds[1:]


def test_a_hold_that_is_read_is_not_removed(tmp_path: Path) -> None:
    hold = _make_hold(tmp_path)
    with reading(hold) as is_there, reading(hold) as is_there_too:
        assert is_there
        assert is_there_too
        assert not remove_hold(hold)
        assert (hold / "weights").read_text() == "w8"
    assert remove_hold(hold)


def test_the_folder_of_holds_goes_with_the_last_one(tmp_path: Path) -> None:
    first, second = _make_hold(tmp_path, 8), _make_hold(tmp_path, 9)
    assert remove_hold(first)
    assert holds_of(tmp_path) == [second]
    assert remove_hold(second)
    assert list(tmp_path.iterdir()) == []
    assert remove_hold(second)


def test_a_hold_that_is_gone_cannot_be_read(tmp_path: Path) -> None:
    with reading(hold_path(tmp_path / "checkpoint-8")) as is_there:
        assert not is_there


def test_a_reader_keeps_no_hold_that_was_made_anew(tmp_path: Path) -> None:
    hold = _make_hold(tmp_path)
    with reading(hold):
        hold.rename(hold.with_name("checkpoint-9"))
        _make_hold(tmp_path)
        assert set_aside(hold)


def test_leftovers_are_removed_and_drafts_only_on_request(tmp_path: Path) -> None:
    hold, other = _make_hold(tmp_path, 8), _make_hold(tmp_path, 9)
    draft = hold.with_name(".new-1")
    draft.write_text("half")
    set_aside(hold)
    remove_leftovers(hold.parent)
    assert sorted(hold.parent.iterdir()) == [draft, other]
    remove_leftovers(hold.parent, drafts="*")
    assert sorted(hold.parent.iterdir()) == [other]


def test_what_a_killed_training_left_of_a_hold_goes_with_it_and_no_other_draft(
    tmp_path: Path,
) -> None:
    hold = hold_path(tmp_path / "checkpoint-8")
    own, other = draft_path(hold), draft_path(hold_path(tmp_path / "checkpoint-80"))
    own.mkdir(parents=True)
    other.mkdir()
    assert remove_hold(hold)
    assert list(hold.parent.iterdir()) == [other]


def test_a_folder_that_is_no_hold_is_never_removed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    assert remove_hold(folder)
    assert folder.is_dir()


def _make_hold(output_dir: Path, step: int = 8) -> Path:
    hold = hold_path(output_dir / f"checkpoint-{step}")
    (hold / "folder").mkdir(parents=True)
    (hold / "weights").write_text(f"w{step}")
    (hold / "folder" / "part").write_text("p")
    return hold
