"""``lineside run --resume RUN``: puts the newest whole checkpoint where training looks for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.bus.checkpoints.hold import reading
from lineside.bus.errors import LinesideError, UsageError
from lineside.bus.wording import plural
from lineside.cli.checkpoints.archive_source import NamedArchive, RunSource, find_run
from lineside.cli.checkpoints.catalog import CatalogEntry, read_catalog
from lineside.cli.checkpoints.progress import ByteProgress
from lineside.cli.checkpoints.resume_place import ResumePlace
from lineside.cli.checkpoints.wholeness import Training
from lineside.cli.output import warn
from lineside.dashboard.formatting import size
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.stream_folder import LOCK_NAME
from lineside.store.archive.errors import ArchiveCorrupt
from lineside.store.history.records import RUNNING_STATUSES

if TYPE_CHECKING:
    from lineside.store.archive.archive import Archive


class NothingWhole(LinesideError):
    """The run has no whole checkpoint, here or in the archive."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a training will resume from, in its place.

    ``origin`` is where it was: a folder here, or the archive. ``aside`` is where newer ones are
    now.
    """

    run: str
    step: int
    path: Path
    origin: str
    aside: Sequence[Path]

    def __str__(self) -> str:
        came = "" if self.origin == str(self.path) else f", from {self.origin}"
        moved = f"; moved aside: {', '.join(map(str, self.aside))}" if self.aside else ""
        return f"{self.run} resumes from step {self.step:,}: {self.path}{came}{moved}"


def place_newest_whole(text: str, named: NamedArchive, spool: Path) -> Resumed:
    """Put the newest whole checkpoint of the run that ``text`` names in its place.

    The archive is opened only if the newest one is not whole on this machine.

    Raises:
        UsageError: no run or several match, it is running, or another run's checkpoint is newer.
        NothingWhole: there is no whole checkpoint.
        ArchiveError, OSError: the archive cannot be read, or nothing can be written here.
    """
    source = find_run(text, named.open)
    _check_ended(source, spool)
    placing = _Placing(source)
    if source.archive is None:
        if (resumed := placing.place_local(placing.catalog[:1])) is not None:
            return resumed
        placing = _Placing(source, named.open())
    return placing.place()


def _check_ended(source: RunSource, spool: Path) -> None:
    remedy = f"stop it first: `lineside stop {source.run}`"
    for lock in spool.glob(f"{source.run}/rank*/*/{LOCK_NAME}"):
        with suppress(OSError):
            if (pid := liveness_lock.holder_pid(lock)) is not None:
                raise UsageError(f"run {source.run} is running, as process {pid}; {remedy}")
    if source.history is not None:
        run = source.history.run(source.run)
        if run.status in RUNNING_STATUSES:
            raise UsageError(
                f"run {source.run} is running by its newest sign of life; {remedy}, or wait 15 s "
                "if its process has ended"
            )


class _Placing:
    """Puts a checkpoint of a run in its place; ``catalog`` has them, the newest first."""

    def __init__(self, source: RunSource, archive: Archive | None = None) -> None:
        self._source = source
        self._archive = source.archive or archive
        self.catalog = read_catalog(source.run, source.history, self._archive)
        self._faults: dict[Path, list[str]] = {}

    def place(self) -> Resumed:
        """The newest whole one of this machine or the archive, in its place."""
        for entry in self.catalog:
            try:
                resumed = self.place_local([entry])
                if resumed is None and entry.key is not None and self._archive is not None:
                    resumed = self._restore(entry, self._archive)
                if resumed is not None:
                    return resumed
            except ArchiveCorrupt as error:
                warn(f"lineside: {error}; looking for an older checkpoint")
        raise NothingWhole(self._explanation())

    def place_local(self, entries: Sequence[CatalogEntry]) -> Resumed | None:
        """The first of ``entries`` that is whole here, in its place."""
        for entry in entries:
            for path in entry.copies:
                place = self._place_of(entry)
                if self._is_whole(place, path):
                    return self._put(place, path)
        return None

    def _is_whole(self, place: ResumePlace, path: Path) -> bool:
        if missing := place.training.missing(path):
            self._faults[path] = missing
        return not missing

    def _put(self, place: ResumePlace, path: Path) -> Resumed:
        place.check()
        if path == place.path:
            place.clear()
        else:
            with reading(path), place.draft() as draft:
                shutil.copytree(path, draft, symlinks=True, copy_function=_link)
                place.fill(draft)
        return Resumed(self._source.run, place.step, place.path, str(path), place.aside)

    def _restore(self, entry: CatalogEntry, archive: Archive) -> Resumed | None:
        manifest = entry.manifest
        place = self._place_of(entry)
        if not place.training.can_resume_from(manifest):
            return None  # the weights alone
        place.check()
        with place.draft() as draft:
            with ByteProgress(f"step {entry.step:,}", manifest.size) as progress:
                archive.restore(manifest, draft, progress.show)
            place.fill(draft)
        origin = f"{archive.url} ({size(manifest.size)})"
        return Resumed(self._source.run, entry.step, place.path, origin, place.aside)

    def _place_of(self, entry: CatalogEntry) -> ResumePlace:
        return ResumePlace(
            self._source.run,
            entry.step,
            Path(entry.path),
            Training.of(entry.run, entry.attempt, self._source.history),
            known={one.record.path for one in self.catalog if one.record is not None},
        )

    def _explanation(self) -> str:
        if not self.catalog:
            here = "it has saved none"
        elif not self._faults:
            here = f"of {plural(len(self.catalog), 'checkpoint')} none is on this machine"
        else:
            here = "; ".join(
                f"{path} lacks {', '.join(missing[:3])}"
                for path, missing in list(self._faults.items())[:3]
            )
        if self._archive is None:
            where = "there is no archive to look in: name its configuration file by --config"
        else:
            where = f"the archive {self._archive.url} has none to resume from"
        return f"run {self._source.run} has no whole checkpoint: {here}; {where}"


def _link(source: str, target: str) -> str:
    """Link, or copy where links cannot be: as a hold, a checkpoint costs no room twice."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target
