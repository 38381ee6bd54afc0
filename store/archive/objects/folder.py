"""Objects as files of a folder: on this machine, on another disk, or on a network file system.

Not by obstore, whose folders are not synced, so that a power failure could empty a file whose hold
is gone, and which cannot refuse what exists where the file system has no links.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from lineside.store.archive.errors import ArchiveDenied, ArchiveUnavailable
from lineside.store.archive.objects.objects import CHUNK_BYTES, ObjectExists, ObjectMissing
from lineside.store.archive.objects.pace import Pace
from lineside.store.archive.tasks import in_thread

_LEFTOVER_SUFFIX = ".tmp"
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})

P = ParamSpec("P")
T = TypeVar("T")


class Folder:
    """An object store in the folder ``root``, which is created by the first write, and once."""

    def __init__(self, root: Path, pace: Pace) -> None:
        self._root = root
        self._pace = pace
        self._was_there = False

    def expect(self) -> None:
        self._was_there = True

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[FolderObjects]:
        if self._was_there and not await in_thread(os.path.lexists, self._root):
            raise ArchiveUnavailable(
                f"the archive in {self._root} is not there any more: mount its disk, correct its "
                "URL, or make the folder to begin anew"
            )
        yield FolderObjects(self._root, self._pace)
        self._was_there = await in_thread(os.path.lexists, self._root)


class FolderObjects:
    """See ``Objects``. An object is written under another name, synced, and then linked."""

    def __init__(self, root: Path, pace: Pace) -> None:
        self._root = root
        self._pace = pace
        self.bytes_sent = 0

    async def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        file = self._root / key
        leftover = file.parent / f".{secrets.token_hex(8)}{_LEFTOVER_SUFFIX}"
        handle = _Handle()
        try:
            await self._call(_create, leftover, handle)
            view = memoryview(data)
            while view:
                size = self._pace.piece_bytes if self._pace.bytes_per_second else CHUNK_BYTES
                await self._pace.take(len(view[:size]))
                written = await self._call(os.write, handle.descriptor, view[:size])
                self.bytes_sent += written
                view = view[written:]
            await self._call(os.fsync, handle.descriptor)
            await self._call(_publish, leftover, file, replace)
        finally:
            handle.close()
            with suppress(OSError):  # it is published, or was never made
                leftover.unlink()

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        handle = _Handle()
        try:
            await self._call(_open, self._root / key, handle)
            while chunk := await self._call(os.read, handle.descriptor, CHUNK_BYTES):
                await self._pace.take(len(chunk))
                yield chunk
        finally:
            handle.close()

    async def sizes(self, prefix: str) -> dict[str, int]:
        return await self._call(_sizes, self._root, prefix)

    async def folders(self, prefix: str) -> list[str]:
        return await self._call(_folders, self._root / prefix)

    async def delete(self, key: str) -> None:
        await self._call(_delete, self._root, key)

    async def remove_leftovers(self, prefix: str) -> None:
        await self._call(_remove_leftovers, self._root / prefix)

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._translated():
            return await in_thread(function, *args, **kwargs)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"the archive in {self._root}"
            if error.errno in _DENIED:
                raise ArchiveDenied(
                    f"{where} cannot be used: {error.strerror} ({error.filename or self._root}); "
                    "the folder has to be one that this user can write to"
                ) from error
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ArchiveUnavailable(
                    f"the disk of {where} is full ({error.strerror}): free some of it, or keep "
                    "fewer checkpoints"
                ) from error
            raise ArchiveUnavailable(f"{where} cannot be used now: {error.strerror}") from error


class _Handle:
    """A descriptor that a thread opens."""

    def __init__(self) -> None:
        self.descriptor = -1

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _open(file: Path, handle: _Handle) -> None:
    try:
        handle.descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ObjectMissing(file.name) from None


def _create(file: Path, handle: _Handle) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        handle.descriptor = os.open(file, flags, 0o666)
    except FileNotFoundError:
        _make_folders(file.parent)
        handle.descriptor = os.open(file, flags, 0o666)


def _make_folders(folder: Path) -> None:
    """Make the folder and its parents, each of them durable."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)


def _publish(leftover: Path, file: Path, replace: bool) -> None:
    if replace:
        leftover.replace(file)
    else:
        try:
            os.link(leftover, file)
        except FileExistsError:
            raise ObjectExists(file.name) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without links there is no atomic refusal. The run's only writer is this process.
            if file.exists():
                raise ObjectExists(file.name) from None
            leftover.rename(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    def raise_unless_missing(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, _, names in os.walk(folder, onerror=raise_unless_missing):
        yield from (Path(place, name) for name in names)


def _sizes(root: Path, prefix: str) -> dict[str, int]:
    found = {}
    for file in _files(root / prefix):
        with suppress(FileNotFoundError):
            status = file.lstat()
            if stat.S_ISREG(status.st_mode) and not file.name.startswith("."):
                found[file.relative_to(root).as_posix()] = status.st_size
    return found


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def _delete(root: Path, key: str) -> None:
    file = root / key
    file.unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty
        for folder in file.parents:
            if folder.parent == root:
                break  # the folder of all runs, in which another may be made now
            folder.rmdir()


def _remove_leftovers(folder: Path) -> None:
    for file in _files(folder):
        if file.name.startswith(".") and file.name.endswith(_LEFTOVER_SUFFIX):
            file.unlink(missing_ok=True)
