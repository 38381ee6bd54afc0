"""Reads manifests and parts, and verifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import aclosing

from lineside.store.archive.errors import ArchiveCorrupt, Fault
from lineside.store.archive.keys import (
    DIGEST_DIGITS,
    ManifestKey,
    checkpoints_prefix,
    part_key,
)
from lineside.store.archive.manifest import InvalidManifest, Manifest, Part
from lineside.store.archive.objects.objects import ObjectMissing, Objects
from lineside.store.archive.progress import Progress
from lineside.store.archive.tasks import TaskPool, in_thread

_MOST_MANIFEST_BYTES = 256 << 20


async def list_manifests(objects: Objects, run: str) -> list[ManifestKey]:
    """The manifests of a run, the newest first: by attempt, then by step.

    The name of an attempt begins with its time.
    """
    listed = await objects.sizes(checkpoints_prefix(run))
    keys = [key for text in listed if (key := ManifestKey.parse(text)) is not None]
    return sorted(keys, key=lambda key: (key.attempt, key.step, key.digest), reverse=True)


async def read_manifest(objects: Objects, key: ManifestKey) -> Manifest:
    """The manifest at ``key``; see ``Archive.read_manifest``."""

    def fault(problem: str) -> ArchiveCorrupt:
        return ArchiveCorrupt(f"step {key.step} of {key.run}", [Fault(str(key), problem)])

    try:
        body = await read_bytes(objects, str(key), _MOST_MANIFEST_BYTES)
    except ObjectMissing:
        raise fault("is missing") from None
    if not hashlib.sha256(body).hexdigest().startswith(key.digest):
        raise fault(f"has another SHA-256 than the {DIGEST_DIGITS} digits in its name")
    try:
        manifest = Manifest.from_json(body)
    except InvalidManifest as error:
        raise fault(f"cannot be used: {error}") from None
    facts = manifest.facts
    if (facts.run, facts.step, facts.attempt) != (key.run, key.step, key.attempt):
        raise fault(f"is that of step {facts.step} of {facts.run}, attempt {facts.attempt}")
    return manifest


async def read_bytes(objects: Objects, key: str, most: int) -> bytes:
    """An object's bytes, up to a few more than ``most``."""
    body = bytearray()
    async with aclosing(objects.get(key)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > most:
                break
    return bytes(body)


async def find_problem(
    objects: Objects,
    run: str,
    part: Part,
    on_read: Callable[[int], None] | None = None,
    consume: Callable[[bytes], None] | None = None,
) -> str | None:
    """Read a part, and name what is wrong with it; None if nothing is.

    Its chunks go to ``consume`` in a thread, and their sizes to ``on_read``.
    """
    digest = hashlib.sha256()
    size = 0

    def take(chunk: bytes) -> None:
        digest.update(chunk)
        if consume is not None:
            consume(chunk)

    try:
        async with aclosing(objects.get(part_key(run, part.sha256))) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > part.size:
                    return f"is longer than the {part.size} bytes of the manifest"
                await in_thread(take, chunk)
                if on_read is not None:
                    on_read(len(chunk))
    except ObjectMissing:
        return "is missing"
    if size != part.size:
        return f"has {size} bytes, and the manifest {part.size}"
    if digest.hexdigest() != part.sha256:
        return "has another SHA-256 than its name"
    return None


class CheckpointCheck:
    """Reads every part of a checkpoint back."""

    def __init__(self, objects: Objects, manifest: Manifest, parallel: int) -> None:
        self._objects = objects
        self._manifest = manifest
        self._parallel = parallel
        self._parts = manifest.parts()
        self._total = sum(part.size for part in self._parts)
        self._done = 0
        self._faults: dict[Part, Fault] = {}

    def progress(self) -> Progress:
        return Progress(self._total, self._done)

    async def run(self) -> list[Fault]:
        """The damaged parts, in the order of the manifest."""
        async with TaskPool(self._parallel) as pool:
            for part, paths in self._parts.items():
                await pool.start(self._check(part, paths))
        return [self._faults[part] for part in self._parts if part in self._faults]

    async def _check(self, part: Part, paths: list[str]) -> None:
        run = self._manifest.facts.run
        problem = await find_problem(self._objects, run, part, self._count)
        if problem is not None:
            self._faults[part] = Fault(part_key(run, part.sha256), problem, tuple(paths))

    def _count(self, size: int) -> None:
        self._done += size
