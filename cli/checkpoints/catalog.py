"""The checkpoints of a run as store and archive know them, the newest first."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.bus.checkpoints.hold import hold_path
from lineside.bus.errors import UsageError
from lineside.bus.protocol.checkpoints import CORRUPT
from lineside.cli.checkpoints.local_copy import local_copy, of_run
from lineside.store.archive.errors import ArchiveCorrupt

if TYPE_CHECKING:
    from lineside.store.archive.archive import Archive
    from lineside.store.archive.keys import ManifestKey
    from lineside.store.archive.manifest import Manifest
    from lineside.store.history.checkpoints import Checkpoint
    from lineside.store.history.history import History
    from lineside.store.history.records import Attempt


_Save = tuple[str, int]  # an attempt and a step


@dataclass(frozen=True)
class CatalogEntry:
    """A checkpoint: its ``record`` in the store, its manifest in the archive, its folder here.

    At least one of them is there. ``key`` is that of the manifest; None if the archive has none, or
    was not asked. ``found`` is a folder that names its run. ``counts`` is False if a later attempt
    resumed from an earlier step.
    """

    run: str
    attempt: str
    step: int
    record: Checkpoint | None
    key: ManifestKey | None
    found: Path | None
    counts: bool
    archive: Archive | None = field(repr=False)

    @cached_property
    def manifest(self) -> Manifest:
        """Its manifest, read from the archive.

        Raises:
            UsageError: it is not in the archive.
            ArchiveCorrupt: the manifest is damaged.
        """
        if self.key is None or self.archive is None:
            raise UsageError(f"step {self.step:,} of {self.run} is not in the archive")
        return self.archive.read_manifest(self.key)

    @property
    def path(self) -> str:
        """Where training saved it, on its own machine; raises as ``manifest`` does."""
        if self.record is not None:
            return self.record.path
        return self.manifest.facts.checkpoint if self.found is None else str(self.found)

    @property
    def is_archived(self) -> bool:
        """Whether the archive has it; if that was not asked, by what the archiver has reported."""
        if self.archive is not None:
            return self.key is not None
        return self.record is not None and self.record.is_archived

    @property
    def is_restorable(self) -> bool:
        """Whether the archive has it, and no fault of it was found so far."""
        return self.is_archived and (self.record is None or self.record.state != CORRUPT)

    @cached_property
    def folder(self) -> Path | None:
        """Its folder (or file) on this machine; None if it is not here."""
        if self.found is not None or self.record is None or self.record.deleted:
            return self.found
        return local_copy(Path(self.record.path), self.run, self.attempt)

    @cached_property
    def hold(self) -> Path | None:
        """The links to its files on this machine; None if there are none."""
        if self.record is None:
            return None
        return local_copy(hold_path(Path(self.record.path)), self.run, self.attempt)

    @property
    def copies(self) -> list[Path]:
        """Where it may be whole on this machine."""
        return [path for path in (self.folder, self.hold) if path is not None]


def read_catalog(
    run: str, history: History | None, archive: Archive | None, attempt: str | None = None
) -> list[CatalogEntry]:
    """Every checkpoint of ``run``, the newest first: those that count, then those that do not.

    ``attempt``: only those of this attempt.

    Folders of checkpoints on this machine are looked into for those that no record names: the
    events of a training without a broker, or of a killed one, may be on their way.

    Raises:
        UsageError: there is none of ``attempt``.
    """
    attempts: Sequence[Attempt] = () if history is None else history.run(run).attempts
    places = _places(one.attempt for one in attempts)
    records: defaultdict[_Save, list[Checkpoint]] = defaultdict(list)
    for record in () if history is None else history.checkpoints(run):
        records[record.attempt, record.step].append(record)
    keys: defaultdict[_Save, list[ManifestKey]] = defaultdict(list)
    for key in () if archive is None else archive.entries(run):
        keys[key.attempt, key.step].append(key)
    newest = max((*places, *(name for name, _ in keys)), default="")
    here: dict[_Save, Path] = {}
    for folder in _folders(records, keys, archive):
        for step, wrote, path in of_run(folder, run):
            here[wrote or newest, step] = path
    ends = {one.attempt: one.superseded_after for one in attempts}
    entries = []
    for save in records.keys() | keys.keys() | here.keys():
        name, step = save
        end = ends.get(name)
        counts = end is None or step <= end
        entries += [
            CatalogEntry(run, name, step, record, key, here.get(save), counts, archive)
            for record, key in _match(records[save], keys[save], archive) or [(None, None)]
        ]
    entries.sort(key=lambda one: (places.get(one.attempt, one.attempt), one.step), reverse=True)
    entries.sort(key=lambda one: not one.counts)
    if attempt is None:
        return entries
    of_attempt = [entry for entry in entries if entry.attempt == attempt]
    if not of_attempt:
        raise UsageError(
            f"run {run} has no checkpoint of an attempt {attempt!r}; `lineside show {run}` lists "
            "its attempts"
        )
    return of_attempt


def at_step(entries: Sequence[CatalogEntry], run: str, step: int) -> CatalogEntry:
    """The first of ``entries`` of ``step``.

    Raises:
        UsageError: there is none.
    """
    for entry in entries:
        if entry.step == step:
            return entry
    steps = ", ".join(f"{one:,}" for one in sorted({entry.step for entry in entries})[-8:])
    known = f"the newest are of the steps {steps}" if steps else "it has none at all"
    raise UsageError(f"run {run} has no checkpoint of step {step:,}: {known}")


def _folders(
    records: Mapping[_Save, Sequence[Checkpoint]],
    keys: Mapping[_Save, Sequence[ManifestKey]],
    archive: Archive | None,
) -> set[Path]:
    """Where training saved: as recorded, or else as the newest manifest has it."""
    folders = {Path(record.path).parent for found in records.values() for record in found}
    if not folders and keys and archive is not None:
        with contextlib.suppress(ArchiveCorrupt):
            newest = archive.read_manifest(keys[max(keys)][0])
            folders.add(Path(newest.facts.checkpoint).parent)
    return folders


def _match(
    records: Sequence[Checkpoint], keys: Sequence[ManifestKey], archive: Archive | None
) -> list[tuple[Checkpoint | None, ManifestKey | None]]:
    """Pairs of what store and archive have of one step of an attempt, by path where in doubt.

    Of several saves to one path the newest counts.
    """
    saved = {record.path: record for record in records}
    if archive is None or (len(saved) <= 1 and len(keys) <= 1):
        return list(zip_longest(saved.values(), keys))
    archived: dict[str, tuple[float, ManifestKey]] = {}
    damaged: list[tuple[None, ManifestKey]] = []
    for key in keys:
        try:
            manifest = archive.read_manifest(key)
        except ArchiveCorrupt:
            damaged.append((None, key))
            continue
        path, at = manifest.facts.checkpoint, manifest.archived_at
        if path not in archived or archived[path][0] < at:
            archived[path] = at, key
    paths = saved.keys() | archived.keys()
    pairs = [(saved.get(path), archived.get(path, (0.0, None))[1]) for path in sorted(paths)]
    return [*pairs, *damaged]


def _places(attempts: Iterable[str]) -> dict[str, str]:
    """For each attempt of these, in order, a text that sorts it among names of other attempts.

    Names begin with the time of a machine's clock; one that resumed on a machine whose clock is
    behind is as late as those before it.
    """
    names = list(attempts)
    return dict(zip(names, accumulate(names, max), strict=True))
