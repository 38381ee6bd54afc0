"""What is to be done in the archive for one run, and how it went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lineside.store.archive.archive import Archive, Progress, Written
from lineside.store.archive.errors import ArchiveCorrupt, Fault
from lineside.store.archive.keys import ManifestKey, part_key
from lineside.store.archive.manifest import CheckpointFacts, Manifest
from lineside.store.archive.source_file import of_folder
from lineside.subscribers.archiver.files.scrub import scrub
from lineside.subscribers.archiver.files.weights_only import weights_only
from lineside.subscribers.archiver.options import ArchiverOptions
from lineside.subscribers.archiver.source import Stamp, find_missing, kept, source_of

EntryId: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True)
class Copy:
    """Copy a checkpoint into the archive; ``saves`` identifies the save of ``entry``."""

    entry: EntryId
    saves: int
    hold: str | None
    facts: CheckpointFacts


@dataclass(frozen=True)
class Delete:
    """Delete the manifest at ``key``; without ``entry`` one that a later save has replaced."""

    entry: EntryId | None
    key: ManifestKey


@dataclass(frozen=True)
class Verify:
    """Read the checkpoint at ``key`` back."""

    entry: EntryId
    key: ManifestKey


@dataclass(frozen=True)
class ListArchive:
    """List what the archive has of the run; manifests that are not ``known`` are read."""

    run: str
    known: frozenset[str]
    most: int


@dataclass(frozen=True)
class CollectGarbage:
    """Remove the parts of the run that no manifest names."""

    run: str


Task: TypeAlias = Copy | Delete | Verify | ListArchive | CollectGarbage


def identity(task: Task) -> Hashable:
    """Equal for tasks of which one makes the other superfluous."""
    if isinstance(task, Copy):
        return (Copy, task.entry, task.saves)
    if isinstance(task, (Delete, Verify)):
        return task
    return type(task).__name__


@dataclass(frozen=True)
class Result:
    """How ``task`` went: ``error`` is why it was not done; ``missing`` files kept it from copying.

    ``left_out`` has files that were not copied, and why; ``faults`` is None if none were sought.
    ``unknown`` holds the manifests that a listing found, beside its ``keys``.
    """

    task: Task
    error: Exception | None = None
    missing: Sequence[str] = ()
    key: ManifestKey | None = None
    written: Written | None = None
    files: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    stamp: Stamp | None = None
    faults: Sequence[Fault] | None = None
    keys: Sequence[ManifestKey] = ()
    unknown: Sequence[tuple[ManifestKey, Manifest]] = field(default=())


OnProgress: TypeAlias = Callable[[Progress], None]


class ArchiveWork:
    """Does tasks in ``archive``."""

    def __init__(self, archive: Archive, options: ArchiverOptions) -> None:
        self.archive = archive
        self.options = options
        self._damaged: set[str] = set()  # the keys of objects, until they are removed

    def perform(self, task: Task, on_progress: OnProgress, stop: threading.Event) -> Result:
        """Do ``task``.

        Raises:
            ArchiveError: the archive cannot be used, or the checkpoint changed.
            SourceGone: there is nothing left to copy.
            OSError: the checkpoint cannot be read.
        """
        if isinstance(task, Copy):
            return self._copy(task, on_progress, stop)
        if isinstance(task, Delete):
            self.archive.delete_checkpoint(task.key)
            return Result(task)
        if isinstance(task, Verify):
            faults = self._faults(task.key, stop)
            self._damaged.update(fault.key for fault in faults)
            return Result(task, faults=faults)
        if isinstance(task, ListArchive):
            return self._list(task)
        self.archive.collect_garbage(task.run)
        return Result(task)

    def _copy(self, task: Copy, on_progress: OnProgress, stop: threading.Event) -> Result:
        facts = task.facts
        source = source_of(facts.checkpoint, task.hold)
        with kept(source, task.hold) as stamp:
            missing = find_missing(source, facts.run, facts.world_size or 1)
            if missing:
                return Result(task, missing=missing)
            files = of_folder(source)
            if self.options.weights_only:
                files = weights_only(files)
            clean = scrub(files, self.options.redaction)
            key, manifest, written = self.archive.write_checkpoint(
                facts, clean.files, on_progress, stop
            )
        keys = {part_key(facts.run, part.sha256) for part in manifest.parts()}
        is_read_back = self.options.verify or not self._damaged.isdisjoint(keys)
        faults = self._faults(key, stop) if is_read_back else None
        if faults:
            self.archive.remove_faulty(faults)  # else the next copy finds them there
        if faults is not None:
            self._damaged -= keys
        return Result(
            task,
            key=key,
            written=written,
            files=len(clean.files),
            left_out=clean.left_out,
            stamp=stamp,
            faults=faults,
        )

    def _faults(self, key: ManifestKey, stop: threading.Event) -> Sequence[Fault]:
        try:
            return self.archive.find_faults(self.archive.read_manifest(key), stop=stop)
        except ArchiveCorrupt as error:
            return error.faults

    def _list(self, task: ListArchive) -> Result:
        if task.known:
            self.archive.expect()
        keys, unknown = self.archive.entries(task.run), []
        for key in [one for one in keys if str(one) not in task.known][: task.most]:
            try:
                unknown.append((key, self.archive.read_manifest(key)))
            except ArchiveCorrupt:
                continue  # which checkpoint it was is not known
        return Result(task, keys=keys, unknown=unknown)
