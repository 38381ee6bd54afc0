"""Finds the copies of a run's checkpoints on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lineside.emitter.training.checkpoints import loop_state, run_file
from lineside.emitter.training.checkpoints.folder import checkpoint_step

STATE_FILE = "trainer_state.json"


def local_copy(path: Path, run: str, attempt: str) -> Path | None:
    """``path``, a folder or a file, if it is here and of this attempt of ``run``.

    Trainings that share an output folder replace each other's checkpoints. One that names no run
    counts by its path, but for a Trainer's: all of those that Lineside takes part in name it.
    """
    if not path.exists():
        return None
    wrote_run, wrote_attempt = written_by(path)
    if not wrote_run:
        return None if (path / STATE_FILE).is_file() else path
    return path if wrote_run == run and wrote_attempt in ("", attempt) else None


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """The steps and paths of the ``checkpoint-<step>`` folders in ``folder``, by step."""
    try:
        paths = list(folder.iterdir())
    except OSError:  # it is not here
        return []
    steps = [(checkpoint_step(path.name), path) for path in paths if path.is_dir()]
    return sorted((step, path) for step, path in steps if step is not None)


def of_run(folder: Path, run: str) -> Iterator[tuple[int, str, Path]]:
    """Step, attempt and path of the checkpoints in ``folder`` that name ``run`` as theirs."""
    for step, path in checkpoints_in(folder):
        wrote_run, attempt = written_by(path)
        if wrote_run == run:
            yield step, attempt, path


def written_by(checkpoint: Path) -> tuple[str, str]:
    """The run and the attempt that wrote ``checkpoint``; empty if it does not name them."""
    wrote = run_file.read(checkpoint / STATE_FILE)
    if wrote:
        return wrote.get("run_id", ""), wrote.get("attempt", "")
    state = loop_state.read_state(checkpoint)
    return ("", "") if state is None else (state.run, "")
