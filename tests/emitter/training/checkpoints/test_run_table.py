"""The table of runs beside checkpoints finds a checkpoint's run, and only that."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from lineside.emitter import LinesideCallback
from lineside.emitter.training.checkpoints import run_table
from tests.support.tiny_trainer import trainer


def run(name: str) -> dict[str, str]:
    return {"run_id": name, "attempt": "a", "name": name.upper(), "project": "p"}


def saved(folder: Path, step: int, state: str) -> Path:
    """The state file of a checkpoint."""
    path = folder / f"checkpoint-{step}" / "trainer_state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(state)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_each_checkpoint_keeps_its_run(out: Path) -> None:
    first, second = saved(out, 2, "{1}"), saved(out, 4, "{2}")
    run_table.record(first, out, run("one"))
    run_table.record(second, out, run("two"))
    assert run_table.find(first, out) == run("one")
    assert run_table.find(second, out) == run("two")


def test_of_equal_checkpoints_the_one_of_this_name_counts(out: Path) -> None:
    for step in (2, 4):
        run_table.record(saved(out, step, "{}"), out, run(f"at-{step}"))
    for step in (2, 4):
        assert run_table.find(saved(out, step, "{}"), out) == run(f"at-{step}")


def test_a_checkpoint_that_was_replaced_since_has_no_run(out: Path) -> None:
    path = saved(out, 2, "{}")
    run_table.record(path, out, run("one"))
    path.write_text("{other}")
    assert run_table.find(path, out) == {}


def test_a_copied_folder_of_checkpoints_has_the_same_runs(out: Path, tmp_path: Path) -> None:
    run_table.record(saved(out, 2, "{}"), out, run("one"))
    copy = shutil.copytree(out, tmp_path / "copy")
    found = run_table.find(copy / "checkpoint-2" / "trainer_state.json", tmp_path / "new")
    assert found == run("one")


def test_a_copied_checkpoint_is_found_by_the_output_folder(out: Path, tmp_path: Path) -> None:
    path = saved(out, 2, "{}")
    run_table.record(path, out, run("one"))
    copy = shutil.copytree(path.parent, tmp_path / "best") / path.name
    assert run_table.find(copy, out) == run("one")
    assert run_table.find(copy, tmp_path / "new") == {}
    link = tmp_path / "elsewhere" / "newest"
    link.parent.mkdir()
    link.symlink_to(path.parent)
    assert run_table.find(link / path.name, tmp_path / "new") == run("one")


def test_removed_checkpoints_leave_the_table(out: Path) -> None:
    first = saved(out, 2, "{1}")
    run_table.record(first, out, run("one"))
    shutil.rmtree(first.parent)
    run_table.record(saved(out, 4, "{2}"), out, run("one"))
    assert run_table.find(saved(out, 2, "{1}"), out) == {}


def test_states_outside_of_a_checkpoint_are_not_recorded(out: Path, tmp_path: Path) -> None:
    """``save_state()`` writes into the output folder itself, Ray into a temporary one."""
    out.mkdir()
    for folder in (out, tmp_path / "ray" / "checkpoint-2"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trainer_state.json").write_text("{}")
        run_table.record(folder / "trainer_state.json", out, run("one"))
    assert not list(tmp_path.rglob(run_table.FOLDER))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"checkpoint-2": 1}', '{"checkpoint-2": {}}'])
def test_a_table_that_cannot_be_read_is_replaced(out: Path, text: str) -> None:
    path = saved(out, 2, "{}")
    (out / run_table.FOLDER).mkdir()
    (out / run_table.FOLDER / "checkpoints.json").write_text(text)
    assert run_table.find(path, out) == {}
    run_table.record(path, out, run("one"))
    assert run_table.find(path, out) == run("one")


def test_the_table_is_not_pushed_to_the_hub(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads: list[dict[str, Any]] = []
    done = SimpleNamespace(is_done=lambda: True)

    class Hub:
        def upload_folder(self, **given: Any) -> SimpleNamespace:
            uploads.append(given)
            return done

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    monkeypatch.setattr("transformers.trainer.PushInProgress", lambda jobs: done)
    made = trainer(tmp_path, LinesideCallback(), save_strategy="steps", save_steps=2)
    made.train()
    made.hub_model_id, made.push_in_progress = "me/it", None
    made._push_from_checkpoint(str(tmp_path / "checkpoint-2"))
    [push] = uploads
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    pushed = set(filter_repo_objects(files, ignore_patterns=push["ignore_patterns"]))
    table = f"{run_table.FOLDER}/checkpoints.json"
    assert table in files
    assert table not in pushed
    assert "model.safetensors" in pushed
