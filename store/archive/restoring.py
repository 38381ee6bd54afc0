"""Restores a checkpoint: into a folder beside the target, verified, and then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineside.bus.file_lock import FileLock
from lineside.store.archive.errors import ArchiveCorrupt, Fault, RestoreRefused
from lineside.store.archive.keys import part_key
from lineside.store.archive.manifest import Manifest, ManifestFile, Part
from lineside.store.archive.objects.folder import sync_folder
from lineside.store.archive.objects.objects import Objects
from lineside.store.archive.progress import Progress
from lineside.store.archive.reading import find_problem
from lineside.store.archive.tasks import TaskPool, in_thread


class CheckpointRestore:
    """Writes the files of ``manifest`` to ``target``, which must not exist."""

    def __init__(self, objects: Objects, manifest: Manifest, target: Path, parallel: int) -> None:
        self._objects = objects
        self._manifest = manifest
        self._target = target
        self._parallel = parallel
        self._done = 0

    def progress(self) -> Progress:
        return Progress(self._manifest.size, self._done)

    async def run(self) -> None:
        """Write and verify it all; see ``Archive.restore``."""
        with _refusals(self._target), _folder_beside(self._target) as folder:
            self._check_room()
            async with TaskPool(self._parallel) as pool:
                for file in self._manifest.files:
                    await self._start_file(file, folder, pool)
            await in_thread(_sync_tree, folder)
            _check_absent(self._target)
            folder.rename(self._target)
            sync_folder(self._target.parent)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._target.parent).free
        if free < self._manifest.size:
            raise RestoreRefused(
                f"the disk of {self._target} has {free:,} bytes left, and the checkpoint needs "
                f"{self._manifest.size:,}: free some of it, or restore it elsewhere"
            )

    async def _start_file(self, file: ManifestFile, folder: Path, pool: TaskPool) -> None:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        offset = 0
        for part in file.parts:
            await pool.start(self._write_part(path, offset, part, file.path))
            offset += part.size

    async def _write_part(self, path: Path, offset: int, part: Part, name: str) -> None:
        run = self._manifest.facts.run
        with path.open("r+b", buffering=0) as handle:
            handle.seek(offset)

            def write(chunk: bytes) -> None:
                view = memoryview(chunk)
                while view:
                    view = view[handle.write(view) :]

            problem = await find_problem(self._objects, run, part, self._count, write)
            if problem is not None:
                fault = Fault(part_key(run, part.sha256), problem, (name,))
                facts = self._manifest.facts
                raise ArchiveCorrupt(f"step {facts.step} of {facts.run}", [fault])
            await in_thread(os.fsync, handle.fileno())

    def _count(self, size: int) -> None:
        self._done += size


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``, locked, which is removed if it is not renamed.

    A killed restore leaves it; the next one to the same target begins by removing it.
    """
    _check_absent(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.restoring"
    folder.mkdir(exist_ok=True)
    try:
        lock = FileLock(folder, wait=False)
    except BlockingIOError:
        raise RestoreRefused(f"another restore to {target} is under way") from None
    with lock:
        try:
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise RestoreRefused(f"{target} exists: name a folder that does not exist yet")


@contextmanager
def _refusals(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RestoreRefused(
                f"the disk of {target} became full: free some of it, or restore it elsewhere"
            ) from error
        raise RestoreRefused(f"{target} cannot be written: {error}") from error


def _sync_tree(folder: Path) -> None:
    for place, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(place))
