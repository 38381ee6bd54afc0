"""Decides whether a checkpoint on this machine is whole, so that training can resume from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.cli.checkpoints.local_copy import STATE_FILE
from lineside.store.archive.file_ends import damage
from lineside.store.archive.whole import missing_files

if TYPE_CHECKING:
    from lineside.store.archive.manifest import Manifest
    from lineside.store.history.history import History


@dataclass(frozen=True)
class Training:
    """What decides which files a whole checkpoint has; ``world_size`` is 0 if it is not known."""

    world_size: int
    is_loop: bool

    @classmethod
    def of(cls, run: str, attempt: str, history: History | None) -> Training:
        """That of an attempt of ``run``, as the store has it."""
        facts = {} if history is None else history.configuration(run, attempt)
        size = facts.get("world_size")
        return cls(size if isinstance(size, int) else 0, facts.get("source") == "loop")

    def can_resume_from(self, manifest: Manifest) -> bool:
        """Whether the archive has more of a checkpoint than the weights alone."""
        return self.is_loop or STATE_FILE in {file.path for file in manifest.files}

    def missing(self, path: Path) -> list[str]:
        """What the checkpoint at ``path``, a folder or a file, lacks to be whole."""
        try:
            if path.is_file():
                what = damage(path)
                return [] if what is None else [f"its end ({what})"]
            if not self.is_loop and not (path / STATE_FILE).is_file():
                return [STATE_FILE]
            return missing_files(path, self.world_size)
        except OSError as error:  # rotation removes it meanwhile
            return [error.strerror or str(error)]
