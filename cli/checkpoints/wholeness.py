"""Decides which checkpoints are whole, so that training can resume from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.cli.checkpoints.local_copy import STATE_FILE
from lineside.store.archive.errors import ArchiveCorrupt
from lineside.store.archive.whole import missing_files

if TYPE_CHECKING:
    from lineside.cli.checkpoints.catalog import CatalogEntry
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
            if path.is_dir() and not self.is_loop and not (path / STATE_FILE).is_file():
                return [STATE_FILE]
            return missing_files(path, self.world_size)
        except OSError as error:  # rotation removes it meanwhile
            return [error.strerror or str(error)]


def newest_whole(
    entries: Sequence[CatalogEntry], history: History | None
) -> tuple[CatalogEntry, Path | None] | None:
    """The first of ``entries`` that is whole, and its folder on this machine, if it has one.

    ``entries`` are a catalog, in which one after the step from which a later attempt resumed comes
    last.
    """
    for entry in entries:
        folder = whole_folder(entry, history)
        if folder is not None or _can_resume_from_archive(entry, history):
            return entry, folder
    return None


def _can_resume_from_archive(entry: CatalogEntry, history: History | None) -> bool:
    """By its manifest; if the archive was not asked, by what the archiver has reported."""
    if entry.key is None or not entry.is_restorable:
        return entry.is_restorable
    try:
        manifest = entry.manifest
    except ArchiveCorrupt:
        return False
    return Training.of(entry.run, entry.attempt, history).can_resume_from(manifest)


def whole_folder(entry: CatalogEntry, history: History | None) -> Path | None:
    """The folder (or the file) on this machine that has the checkpoint whole.

    Its hold counts only until the archive has it: then the archiver removes it.
    """
    copies = [one for one in entry.copies if one != entry.hold or not entry.is_archived]
    if not copies:
        return None
    training = Training.of(entry.run, entry.attempt, history)
    return next((one for one in copies if not training.missing(one)), None)
