"""The file in a checkpoint names its run, and only where it was made for that checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lineside.emitter.training.checkpoints import run_file

RUN = {"run_id": "one", "attempt": "a", "name": "ONE", "project": "p"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def state_file(out: Path) -> Path:
    """The state file of a checkpoint."""
    path = out / "checkpoint-2" / "trainer_state.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def test_a_checkpoint_keeps_its_run_where_it_is_copied_to(
    out: Path, state_file: Path, tmp_path: Path
) -> None:
    run_file.write(state_file, out, RUN)
    assert run_file.read(state_file) == RUN
    copy = shutil.copytree(state_file.parent, tmp_path / "best")
    assert run_file.read(copy / state_file.name) == RUN


def test_a_checkpoint_that_was_replaced_since_has_no_run(out: Path, state_file: Path) -> None:
    run_file.write(state_file, out, RUN)
    state_file.write_text("{other}")
    assert run_file.read(state_file) == {}


def test_states_outside_of_a_checkpoint_are_not_marked(out: Path, tmp_path: Path) -> None:
    """``save_state()`` writes into the output folder itself, Ray into a temporary one."""
    out.mkdir()
    for folder in (out, tmp_path / "ray" / "checkpoint-2"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trainer_state.json").write_text("{}")
        run_file.write(folder / "trainer_state.json", out, RUN)
    assert not list(tmp_path.rglob(run_file.FILE_NAME))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"1", b"{}", b'{"trainer_state": 1}', b"\xff"]
)
def test_a_file_that_names_no_run_is_replaced(out: Path, state_file: Path, content: bytes) -> None:
    (state_file.parent / run_file.FILE_NAME).write_bytes(content)
    assert run_file.read(state_file) == {}
    run_file.write(state_file, out, RUN)
    assert run_file.read(state_file) == RUN
