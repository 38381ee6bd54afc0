"""Writes a checkpoint: the parts that are not there yet, then the manifest."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import BinaryIO

from lineside.store.archive.errors import (
    ArchiveCorrupt,
    ArchiveUnavailable,
    Fault,
    SourceChanged,
)
from lineside.store.archive.keys import (
    DIGEST_DIGITS,
    ManifestKey,
    part_key,
    parts_prefix,
    run_prefix,
)
from lineside.store.archive.manifest import (
    CheckpointFacts,
    Manifest,
    ManifestFile,
    Part,
)
from lineside.store.archive.objects.objects import ObjectExists, Objects
from lineside.store.archive.progress import Progress, Written
from lineside.store.archive.reading import list_manifests, read_bytes, read_manifest
from lineside.store.archive.source_file import SourceFile
from lineside.store.archive.tasks import TaskPool, in_thread

PART_BYTES = 64 << 20


class CheckpointWriter:
    """Writes one checkpoint. It keeps at most ``parallel`` + 1 parts in memory."""

    def __init__(
        self,
        objects: Objects,
        facts: CheckpointFacts,
        files: Sequence[SourceFile],
        parallel: int,
    ) -> None:
        self._objects = objects
        self._facts = facts
        self._files = files
        self._parallel = parallel
        self._total = sum(file.size for file in files)
        self._present: dict[str, int] = {}
        self._done = 0  # of which were there already, or have been sent
        self._sent = 0
        self._in_flight = 0

    def progress(self) -> Progress:
        """How far it is; of parts that are under way, as much as the store knows."""
        arrived = max(self._sent, min(self._objects.bytes_sent, self._sent + self._in_flight))
        return Progress(self._total, self._done + arrived - self._sent, arrived)

    async def run(self) -> tuple[ManifestKey, Manifest, Written]:
        """Write it all; see ``Archive.write_checkpoint``."""
        run = self._facts.run
        await self._objects.remove_leftovers(run_prefix(run))
        self._present = await self._objects.sizes(parts_prefix(run))
        files: list[ManifestFile] = []
        async with TaskPool(self._parallel) as pool:
            for file in self._files:
                parts = await self._send_file(file, pool)
                files.append(ManifestFile(file.path, file.size, tuple(parts), file.scrubbed))
        manifest = Manifest(self._facts, tuple(files), archived_at=time.time())
        await self._check_parts(manifest)
        key, manifest = await self._write_manifest(manifest)
        stored = sum(part.size for part in manifest.parts())
        return key, manifest, Written(self._total, self._sent, stored)

    async def _send_file(self, file: SourceFile, pool: TaskPool) -> list[Part]:
        parts = []
        source = _Source(file)
        try:
            await in_thread(source.open)
            while not source.is_at_end:
                block = await in_thread(source.read_block)
                parts.append(block.part)
                key = part_key(self._facts.run, block.part.sha256)
                present = self._present.get(key)
                if present == block.part.size:
                    self._done += block.part.size
                    continue
                self._present[key] = block.part.size
                # What is there with another size was cut short.
                await pool.start(self._send_part(key, block.data, present is not None))
            await in_thread(source.check)
        finally:
            source.close()
        return parts

    async def _send_part(self, key: str, data: bytes, is_broken: bool) -> None:
        self._in_flight += len(data)
        try:
            # If it exists, a request whose answer was lost has written it.
            with suppress(ObjectExists):
                await self._objects.put(key, data, replace=is_broken)
            self._sent += len(data)
            self._done += len(data)
        finally:
            self._in_flight -= len(data)

    async def _check_parts(self, manifest: Manifest) -> None:
        listed = await self._objects.sizes(parts_prefix(self._facts.run))
        for part, paths in manifest.parts().items():
            key = part_key(self._facts.run, part.sha256)
            if listed.get(key) != part.size:
                raise ArchiveUnavailable(
                    f"the archive lists {key} (of {paths[0]}) with {listed.get(key, 'no')} bytes "
                    f"after {part.size} were written"
                )

    async def _write_manifest(self, manifest: Manifest) -> tuple[ManifestKey, Manifest]:
        facts = manifest.facts
        earlier: list[ManifestKey] = []
        for key in await list_manifests(self._objects, facts.run):
            if (key.step, key.attempt) != (facts.step, facts.attempt):
                continue
            with suppress(ArchiveCorrupt):
                there = await read_manifest(self._objects, key)
                if replace(there, archived_at=manifest.archived_at) == manifest:
                    return key, there
                if there.facts.checkpoint == facts.checkpoint:
                    earlier.append(key)
        body = manifest.to_json()
        digest = hashlib.sha256(body).hexdigest()[:DIGEST_DIGITS]
        key = ManifestKey(facts.run, facts.step, facts.attempt, digest)
        with suppress(ObjectExists):
            await self._objects.put(str(key), body)
        if await read_bytes(self._objects, str(key), len(body)) != body:
            await self._objects.delete(str(key))
            raise ArchiveCorrupt(
                facts.checkpoint, [Fault(str(key), "was read back with other bytes than written")]
            )
        for old in earlier:
            await self._objects.delete(str(old))
        return key, manifest


@dataclass(frozen=True)
class _Block:
    part: Part
    data: bytes


class _Source:
    """A file that is read in blocks, and compared with how it was listed."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._left = file.size
        self._handle: BinaryIO = BytesIO()

    def open(self) -> None:
        try:
            self._handle = self._file.open()
        except FileNotFoundError:
            raise SourceChanged(self._file.path, "went") from None
        except OSError as error:
            raise self._unreadable(error) from error
        self._compare()

    @property
    def is_at_end(self) -> bool:
        return self._left == 0

    def read_block(self) -> _Block:
        size = min(self._left, PART_BYTES)
        data = self._read(size)
        if len(data) != size:
            raise SourceChanged(self._file.path, "became shorter")
        self._left -= size
        return _Block(Part(hashlib.sha256(data).hexdigest(), size), data)

    def check(self) -> None:
        """Check that the file ends here and was not changed while it was read."""
        if self._read(1):
            raise SourceChanged(self._file.path, "became longer")
        self._compare()

    def close(self) -> None:
        self._handle.close()

    def _read(self, size: int) -> bytes:
        try:
            return self._handle.read(size)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> ArchiveUnavailable:
        return ArchiveUnavailable(
            f"{self._file.path} of the checkpoint cannot be read: {error.strerror}"
        )

    def _compare(self) -> None:
        try:
            status = os.fstat(self._handle.fileno())
        except (io.UnsupportedOperation, AttributeError):
            return  # it is made in memory
        if (status.st_size, status.st_mtime_ns) != (self._file.size, self._file.mtime_ns):
            raise SourceChanged(self._file.path, "was written to")
