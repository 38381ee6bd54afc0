"""An archive of checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.store.archive.errors import Fault
from lineside.store.archive.keys import ManifestKey
from lineside.store.archive.manifest import CheckpointFacts, Manifest
from lineside.store.archive.source_file import SourceFile


@dataclass(frozen=True)
class Progress:
    """How far a copy, a check or a restore is: ``done`` of ``total`` bytes.

    ``sent`` counts the bytes that went into the archive; what was there already is only ``done``.
    """

    total: int
    done: int
    sent: int = 0


@dataclass(frozen=True)
class Written:
    """What a write did: ``sent`` bytes, for a checkpoint whose distinct parts are ``stored``.

    ``bytes`` is the size of its files.
    """

    bytes: int
    sent: int
    stored: int


@dataclass(frozen=True)
class Collected:
    """What garbage collection removed."""

    parts: int
    bytes: int


def _no_progress(progress: Progress) -> None:
    pass


class Archive:
    """An archive at ``url``. Its calls block; none may be made on a running event loop.

    Every call raises ArchiveUnavailable or ArchiveDenied where the archive cannot be used. For
    each run, writing and removing are left to one process, and one thread in it.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def runs(self) -> list[str]:
        """The runs that have something in the archive, sorted."""
        raise NotImplementedError

    def entries(self, run: str) -> list[ManifestKey]:
        """The checkpoints of a run, the newest first: by attempt, then by step."""
        raise NotImplementedError

    def read_manifest(self, key: ManifestKey) -> Manifest:
        """The manifest at ``key``.

        Raises:
            ArchiveCorrupt: it is missing, damaged, or that of another checkpoint.
        """
        raise NotImplementedError

    def write_checkpoint(
        self,
        facts: CheckpointFacts,
        files: Sequence[SourceFile],
        on_progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> tuple[ManifestKey, Manifest, Written]:
        """Archive ``files``: the parts that are not there yet, then the manifest.

        A checkpoint that is there already with the same files keeps its manifest.
        ``on_progress`` is called in this thread, at least every second.

        Raises:
            SourceChanged: a file changed or went; the manifest was not written.
            ArchiveStopped: ``stop`` was set.
            ArchiveCorrupt: the manifest was read back other than it was written.
        """
        raise NotImplementedError

    def delete_checkpoint(self, key: ManifestKey) -> None:
        """Remove a checkpoint, that is its manifest; ``collect_garbage`` frees its parts."""
        raise NotImplementedError

    def collect_garbage(self, run: str) -> Collected:
        """Remove the parts that no manifest of the run names, and what killed writes left.

        Raises:
            ArchiveCorrupt: a manifest cannot be read; nothing was removed.
        """
        raise NotImplementedError

    def find_faults(
        self, manifest: Manifest, on_progress: Callable[[Progress], None] = _no_progress
    ) -> list[Fault]:
        """Read every part back; those that are missing or have other bytes."""
        raise NotImplementedError

    def restore(
        self,
        manifest: Manifest,
        target: Path,
        on_progress: Callable[[Progress], None] = _no_progress,
    ) -> None:
        """Write the checkpoint to ``target``, which must not exist; each part is verified.

        Raises:
            RestoreRefused: the target exists, or its disk has no room; nothing is left there.
            ArchiveCorrupt: a part is missing or has other bytes; nothing is left there.
        """
        raise NotImplementedError
