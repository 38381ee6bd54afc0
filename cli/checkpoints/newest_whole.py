"""Finds the newest whole checkpoint of a run, on this machine or in the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.cli.checkpoints.catalog import CatalogEntry, read_catalog
from lineside.cli.checkpoints.wholeness import Training

if TYPE_CHECKING:
    from lineside.store.archive.archive import Archive
    from lineside.store.archive.keys import ManifestKey
    from lineside.store.history.history import History


@dataclass(frozen=True)
class WholeCheckpoint:
    """A whole checkpoint of a run, in ``folder`` on this machine.

    ``folder`` is None if only the archive has it; ``key`` is then that of its manifest, or None if
    the archive was not asked and the store has it as archived.
    """

    run: str
    attempt: str
    step: int
    folder: Path | None
    key: ManifestKey | None


def newest_whole(
    run: str, history: History | None, archive: Archive | None
) -> WholeCheckpoint | None:
    """The newest whole checkpoint of ``run``; None if neither this machine nor the archive has one.

    One after the step from which a later attempt resumed counts only if there is no other.
    ``history`` is None without a store, ``archive`` if there is none, or it is not to be asked.
    """
    found = newest_whole_entry(read_catalog(run, history, archive), history)
    if found is None:
        return None
    entry, folder = found
    return WholeCheckpoint(run, entry.attempt, entry.step, folder, entry.key)


def newest_whole_entry(
    entries: Sequence[CatalogEntry], history: History | None
) -> tuple[CatalogEntry, Path | None] | None:
    """The first of ``entries`` that is whole, and its folder here, if it has one."""
    for entry in entries:
        folder = whole_folder(entry, history)
        if folder is not None or entry.is_restorable:
            return entry, folder
    return None


def whole_folder(entry: CatalogEntry, history: History | None) -> Path | None:
    """The folder (or the file) on this machine that has the checkpoint whole.

    Its hold counts only until the archive has it: then the archiver removes it.
    """
    training = Training.of(entry.run, entry.attempt, history)
    copies = [one for one in entry.copies if one != entry.hold or not entry.is_archived]
    return next((one for one in copies if not training.missing(one)), None)
