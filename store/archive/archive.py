"""An archive of checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lineside.store.archive.errors import ArchiveCorrupt, ArchiveLocationError, Fault
from lineside.store.archive.keys import (
    RUNS,
    ManifestKey,
    is_name,
    part_key,
    parts_prefix,
    run_prefix,
)
from lineside.store.archive.manifest import (
    CheckpointFacts,
    InvalidManifest,
    Manifest,
    Part,
    check_paths,
)
from lineside.store.archive.objects.objects import Objects, ObjectStore
from lineside.store.archive.progress import (
    Collected,
    OnProgress,
    Progress,
    Written,
    no_progress,
)
from lineside.store.archive.reading import (
    CheckpointCheck,
    find_problem,
    list_manifests,
    read_manifest,
)
from lineside.store.archive.restoring import CheckpointRestore
from lineside.store.archive.source_file import SourceFile
from lineside.store.archive.tasks import TaskPool, run_blocking
from lineside.store.archive.writing import CheckpointWriter

__all__ = ["Archive", "Collected", "Progress", "Written"]

_DELETIONS_AT_A_TIME = 8

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class _Job(Protocol[R_co]):
    def progress(self) -> Progress: ...

    async def run(self) -> R_co: ...


class Archive:
    """An archive at ``url``. Its calls block; none may be made on a running event loop.

    Every call raises ArchiveUnavailable or ArchiveDenied where the archive cannot be used. For
    each run, writing and removing are left to one process, and one thread in it.
    """

    def __init__(self, url: str, store: ObjectStore, parallel: int) -> None:
        self.url = url
        self._store = store
        self._parallel = parallel

    def __repr__(self) -> str:
        return f"Archive({self.url!r})"

    def expect(self) -> None:
        """Have a missing folder be an outage: it has been used, and its disk may be away."""
        self._store.expect()

    def runs(self) -> list[str]:
        """The runs that have something in the archive, sorted."""

        async def read(objects: Objects) -> list[str]:
            return sorted(filter(is_name, await objects.folders(f"{RUNS}/")))

        return self._run(read)

    def entries(self, run: str) -> list[ManifestKey]:
        """The checkpoints of a run, the newest first: by attempt, then by step."""
        return self._run(lambda objects: list_manifests(objects, run))

    def read_manifest(self, key: ManifestKey) -> Manifest:
        """The manifest at ``key``.

        Raises:
            ArchiveCorrupt: it is missing, damaged, or that of another checkpoint.
        """
        return self._run(lambda objects: read_manifest(objects, key))

    def write_checkpoint(
        self,
        facts: CheckpointFacts,
        files: Sequence[SourceFile],
        on_progress: OnProgress,
        stop: threading.Event,
    ) -> tuple[ManifestKey, Manifest, Written]:
        """Archive ``files``: the parts that are not there yet, then the manifest.

        A checkpoint that is there already with the same facts and files keeps its manifest; else
        the new one takes the place of those of the same attempt, step and path.
        ``on_progress`` is called in this thread, twice a second and at the end.

        Raises:
            SourceChanged: a file changed or went; the manifest was not written.
            ArchiveStopped: ``stop`` was set.
            ArchiveCorrupt: the manifest was read back other than it was written.
            ArchiveLocationError: the run, the attempt or a path cannot be in an archive.
        """
        run_prefix(facts.run)
        if not is_name(facts.attempt):
            raise ArchiveLocationError(f"attempt {facts.attempt[:200]!r} cannot be in an archive")
        try:
            check_paths(file.path for file in files)
        except InvalidManifest as error:
            raise ArchiveLocationError(f"the checkpoint cannot be archived: {error}") from None
        return self._follow(
            lambda objects: CheckpointWriter(objects, facts, files, self._parallel),
            on_progress,
            stop,
        )

    def delete_checkpoint(self, key: ManifestKey) -> None:
        """Remove a checkpoint, that is its manifest; ``collect_garbage`` frees its parts."""
        self._run(lambda objects: objects.delete(str(key)))

    def collect_garbage(self, run: str) -> Collected:
        """Remove the parts that no manifest of the run names, and what killed writes left.

        Raises:
            ArchiveCorrupt: a manifest cannot be read; nothing was removed.
        """

        async def collect(objects: Objects) -> Collected:
            # Parts are listed first: one of a manifest that is written meanwhile is not removed.
            listed = await objects.sizes(parts_prefix(run))
            for key in await list_manifests(objects, run):
                manifest = await read_manifest(objects, key)
                for part in manifest.parts():
                    listed.pop(part_key(run, part.sha256), None)
            async with TaskPool(_DELETIONS_AT_A_TIME) as pool:
                for part_to_remove in listed:
                    await pool.start(objects.delete(part_to_remove))
            await objects.remove_leftovers(run_prefix(run))
            return Collected(len(listed), sum(listed.values()))

        return self._run(collect)

    def find_faults(
        self,
        manifest: Manifest,
        on_progress: OnProgress = no_progress,
        stop: threading.Event | None = None,
    ) -> list[Fault]:
        """Read every part back; those that are missing or have other bytes.

        Raises:
            ArchiveStopped: ``stop`` was set.
        """
        return self._follow(
            lambda objects: CheckpointCheck(objects, manifest, self._parallel), on_progress, stop
        )

    def read_part(self, run: str, part: Part, path: str) -> bytes:
        """The bytes of a part of the file ``path``, verified.

        Raises:
            ArchiveCorrupt: it is missing or has other bytes.
        """
        body = bytearray()

        async def read(objects: Objects) -> bytes:
            problem = await find_problem(objects, run, part, consume=body.extend)
            if problem is not None:
                raise ArchiveCorrupt(path, [Fault(part_key(run, part.sha256), problem)])
            return bytes(body)

        return self._run(read)

    def remove_faulty(self, faults: Sequence[Fault]) -> None:
        """Remove damaged parts, so that the next write of the same bytes sends them again."""

        async def remove(objects: Objects) -> None:
            for fault in faults:
                await objects.delete(fault.key)

        self._run(remove)

    def restore(
        self,
        manifest: Manifest,
        target: Path,
        on_progress: OnProgress = no_progress,
    ) -> None:
        """Write the checkpoint to ``target``, which must not exist; each part is verified.

        Raises:
            RestoreRefused: the target exists, or its disk has no room; nothing is left there.
            ArchiveCorrupt: a part is missing or has other bytes; nothing is left there.
        """
        self._follow(
            lambda objects: CheckpointRestore(objects, manifest, target, self._parallel),
            on_progress,
        )

    def _follow(
        self,
        make: Callable[[Objects], _Job[T]],
        on_progress: OnProgress,
        stop: threading.Event | None = None,
    ) -> T:
        progress: Callable[[], Progress] | None = None

        async def work(objects: Objects) -> T:
            nonlocal progress
            job = make(objects)
            progress = job.progress
            return await job.run()

        def tick() -> None:
            if progress is not None:
                on_progress(progress())

        result = self._run(work, tick, stop)
        tick()
        return result

    def _run(
        self,
        use: Callable[[Objects], Coroutine[Any, Any, T]],
        on_tick: Callable[[], None] | None = None,
        stop: threading.Event | None = None,
    ) -> T:
        async def work() -> T:
            async with self._store.connect() as objects:
                return await use(objects)

        return run_blocking(work(), on_tick, stop)
