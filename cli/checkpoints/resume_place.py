"""The place in which a training looks for the checkpoint that it resumes from.

Scripts take the ``checkpoint-<step>`` of the highest step in their output folder, as
``get_last_checkpoint`` of transformers does. So the newest whole checkpoint has to be the last one
there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lineside.bus.errors import UsageError
from lineside.cli.checkpoints.local_copy import checkpoints_in, written_by
from lineside.cli.checkpoints.wholeness import Training

ASIDE_FOLDER = "_lineside_aside"
"""Beside the checkpoints: those that a training must not resume from. Nothing removes them."""
_DRAFT = "_lineside_restored-"  # begins the name of what is being put in place


@dataclass
class ResumePlace:
    """``path``, where a training saved its checkpoint of ``step`` and looks for it.

    ``known`` are the paths of all checkpoints that the run has recorded. ``aside`` fills with the
    places of what ``clear`` moves away.
    """

    run: str
    step: int
    path: Path
    training: Training
    known: Collection[str]
    aside: list[Path] = field(default_factory=list)

    def check(self) -> None:
        """Refuse a place where the training would resume from a checkpoint that is not the run's.

        Raises:
            UsageError: it is newer, and another run's or of an unknown one.
        """
        for path in self._newer():
            owner, _ = written_by(path)
            if owner == self.run or (
                not owner and (str(path) in self.known or self.training.missing(path))
            ):
                continue
            whose = f"of run {owner}" if owner else f"not known to be of {self.run}"
            raise UsageError(
                f"{path} is newer than step {self.step:,} and {whose}, and the training would "
                "resume from it: move it away first"
            )

    def clear(self) -> None:
        """Move newer checkpoints aside."""
        for path in self._newer():
            self._move_aside(path)

    def fill(self, draft: Path) -> None:
        """Rename ``draft``, or its only file if that is the checkpoint, into the place."""
        file = draft / self.path.name
        is_file = file.is_file() and len(list(draft.iterdir())) == 1
        if os.path.lexists(self.path):
            self._move_aside(self.path)
        self.clear()
        (file if is_file else draft).rename(self.path)

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """A path that does not exist, for what is renamed into the place; removed at the end."""
        draft = self.path.with_name(f"{_DRAFT}{self.path.name}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _newer(self) -> list[Path]:
        """The checkpoints beside it that a training would take for newer, by their names."""
        if self.path.name != f"checkpoint-{self.step}":
            return []
        return [path for step, path in checkpoints_in(self.path.parent) if step > self.step]

    def _move_aside(self, path: Path) -> None:
        folder = path.parent / ASIDE_FOLDER
        folder.mkdir(exist_ok=True)
        target, number = folder / path.name, 1
        while os.path.lexists(target):
            number += 1
            target = folder / f"{path.name}.{number}"
        path.rename(target)
        self.aside.append(target)
