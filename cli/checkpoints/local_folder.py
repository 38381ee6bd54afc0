"""Finds the folders on this machine that hold a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from lineside.bus.checkpoints.hold import hold_path
from lineside.emitter.training.checkpoints import run_file

_STATE_FILE = "trainer_state.json"


def local_folder(path: Path, run: str, attempt: str) -> Path | None:
    """``path`` if it is here and this attempt of ``run`` wrote it; None otherwise."""
    return path if path.is_dir() and _is_of(path, run, attempt) else None


def held_folder(path: Path, run: str, attempt: str) -> Path | None:
    """The hold of the checkpoint at ``path``, if it is here and of this attempt."""
    return local_folder(hold_path(path), run, attempt)


def _is_of(folder: Path, run: str, attempt: str) -> bool:
    """Whether this attempt wrote ``folder``: trainings that share an output folder replace theirs.

    A checkpoint without a Trainer's state names no run and counts by its path alone.
    """
    state_file = folder / _STATE_FILE
    if not state_file.is_file():
        return True
    wrote = run_file.read(state_file)
    return wrote.get("run_id") == run and wrote.get("attempt", attempt) == attempt
