"""Finds the checkpoints of a training in their folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lineside.bus.checkpoints.hold import HOLD_FOLDER

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")


def checkpoint_path(args: Any, state: Any) -> str:
    """Absolute path of the checkpoint that was just saved.

    A hyperparameter trial saves below a folder whose name no callback receives, so this is the
    newest checkpoint of the step.
    """
    output = Path(args.output_dir).absolute()
    name = f"checkpoint-{state.global_step}"
    if getattr(state, "is_hyper_param_search", False):
        found = [path for path in output.glob(f"*/{name}") if path.is_dir()]
        saved = [path for path in found if not path.parent.name.startswith(HOLD_FOLDER)]
        if saved:
            return str(max(saved, key=lambda path: path.stat().st_mtime))
    return str(output / name)


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint by its ``name``; None for any name but ``checkpoint-<step>``."""
    match = _CHECKPOINT.fullmatch(name)
    return None if match is None else int(match[1])


def written_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Absolute path of a checkpoint, a folder or a file, that a script has written.

    Raises:
        ValueError: nothing is there.
    """
    # Its name is that of its hold: never "..".
    written = Path(os.path.abspath(path))  # noqa: PTH100 - follows no links
    if not written.exists() or not written.name:
        raise ValueError(f"no checkpoint at {written}: expected the path of what is written")
    return written


class CheckpointFolder:
    """Looks again and again at a folder of checkpoints, from which rotation and people delete."""

    def __init__(self) -> None:
        self._folder = Path()
        self._steps: frozenset[int] = frozenset()

    def facts(self, folder: Path, resumed_step: int = 0) -> dict[str, Any]:
        """``checkpoints`` in ``folder``; empty unless one that was there before is gone.

        If training resumes from one of them, earlier processes have reported the others, so what
        the folder holds now is reported too.
        """
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            names = []
        except OSError:
            return {}
        steps = frozenset(step for step in map(checkpoint_step, names) if step is not None)
        before = self._steps if folder == self._folder else frozenset()
        self._folder, self._steps = folder, steps
        if before <= steps and resumed_step not in steps:
            return {}
        return {"checkpoints": {"folder": str(folder), "steps": sorted(steps)}}
