"""Finds the newest whole checkpoint of a run, on this machine or in the archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.cli.checkpoints.wholeness import Training
from lineside.store.archive.errors import ArchiveCorrupt

if TYPE_CHECKING:
    from lineside.cli.checkpoints.catalog import CatalogEntry
    from lineside.store.history.history import History


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
