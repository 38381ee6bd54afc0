"""The archive of a backup: a tar file that begins with its format and ends with checksums.

The last member lists every other with its size and SHA-256. So an archive without its end is
recognised, and one is complete or refused.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from lineside.bus.errors import LinesideError, UsageError
from lineside.bus.file_lock import FileLock

FORMAT = 1
"""The version of the archive that this Lineside writes, and the newest that it reads."""
MAX_DOCUMENT_BYTES = 16 << 20
"""Of the format and of the list of checksums."""
_ROOT = "lineside-backup/"
_FORMAT_NAME, _MANIFEST_NAME = "format.json", "manifest.json"
_GZIP_MAGIC = b"\x1f\x8b"
_COMPRESSION = 1  # of gzip: the others take many times as long for a few percent
_CHUNK_BYTES = 1 << 20
# A relative path of plain names: no absolute one, none that leads out, no control characters.
_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+(?:/[^/\x00-\x1f\x7f]+)*")


class ArchiveError(LinesideError):
    """The file is no whole archive of a backup."""


class Content(Protocol):
    """What can be read of a member."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass
class Member:
    """A file of the archive, by its size and SHA-256."""

    bytes: int
    sha256: str


class ArchiveWriter:
    """Writes the archive ``path``: nothing of it is there before ``commit``.

    Its parts are in ``folder``, beside it, which the next backup to ``path`` removes if this
    process is killed.

    Raises:
        UsageError: another process writes a backup to ``path``.
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.with_name(f".{path.name}.partial")
        self._members: dict[str, Member] = {}
        with ExitStack() as opened:
            self._lock = _lock_folder(self.folder, path)
            opened.callback(self._remove_folder)
            for left in self.folder.iterdir():
                left.unlink()
            self._path = self.folder / "archive"
            self._file = opened.enter_context(open(self._path, "xb", opener=_private))
            self._packed: Any = self._file
            if path.name.endswith((".gz", ".tgz")):
                self._packed = opened.enter_context(
                    gzip.GzipFile("", "wb", _COMPRESSION, self._file, mtime=0)
                )
            self._tar = opened.enter_context(
                tarfile.open(
                    fileobj=self._packed,
                    mode="w|",
                    bufsize=_CHUNK_BYTES,
                    format=tarfile.PAX_FORMAT,
                )
            )
            self._opened = opened.pop_all()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._opened.close()
        except OSError:  # what is left cannot be written either
            if error is None:
                raise

    @property
    def members(self) -> Mapping[str, Member]:
        """The files added so far."""
        return self._members

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the format and ``facts`` about the archive; the first call."""
        self._add_document(_FORMAT_NAME, {"format": FORMAT, **facts})

    def add(self, name: str, path: Path) -> None:
        """Add the file ``path`` as ``name``; the bytes that it has when it is opened.

        Raises:
            OSError: it cannot be read, or the archive not be written.
        """
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            hashed = _HashedFile(file)
            self._add(name, found.st_size, hashed, found.st_mtime)
        self._members[name] = Member(hashed.count, hashed.digest())

    def commit(self, facts: Mapping[str, Any], *, replace: bool) -> int:
        """Write ``facts`` and the checksums, sync, and give the archive its name; its bytes.

        Raises:
            UsageError: there is such a file, and ``replace`` is False.
            OSError: it cannot be written.
        """
        members = {name: vars(member) for name, member in self._members.items()}
        self._add_document(_MANIFEST_NAME, {**facts, "members": members})
        with naming(self.path):
            self._tar.close()
            if self._packed is not self._file:
                self._packed.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            size = os.fstat(self._file.fileno()).st_size
        if self.path.exists() and not replace:
            raise UsageError(f"{self.path} was made by another process meanwhile")
        self._path.replace(self.path)
        sync_folder(self.path.parent)
        return size

    def _add_document(self, name: str, document: Mapping[str, Any]) -> None:
        data = json.dumps(document, indent=1).encode()
        self._add(name, len(data), io.BytesIO(data), time.time())

    def _add(self, name: str, size: int, file: Any, modified_at: float) -> None:
        info = tarfile.TarInfo(_ROOT + name)
        info.size, info.mode, info.mtime = size, 0o600, int(modified_at)
        with naming(self.path):
            self._tar.addfile(info, file)

    def _remove_folder(self) -> None:
        for left in self.folder.iterdir():
            left.unlink()
        self.folder.rmdir()
        self._lock.release()


@dataclass
class ArchiveReader:
    """The archive ``path``, read from its beginning to its end."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    """Of its format, once the first member was read."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """The facts at its end, once all of it was read and agreed with the checksums."""

    @contextmanager
    def open(self) -> Iterator[Iterator[tuple[str, Content]]]:
        """The name and content of each file; afterwards ``manifest`` proves them.

        Raises:
            ArchiveError: it is truncated, damaged, or no archive of a backup.
            UsageError: a newer Lineside wrote it.
        """
        with self.path.open("rb") as file, self._translating_errors():
            is_packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            content: Any = gzip.GzipFile(fileobj=file) if is_packed else file
            with tarfile.open(fileobj=content, mode="r|", bufsize=_CHUNK_BYTES) as tar:
                members = iter(tar)
                self._read_format(tar, next(members, None))
                yield self._files(tar, members)

    def _files(
        self, tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo]
    ) -> Iterator[tuple[str, Content]]:
        found: dict[str, Member] = {}
        for member in members:
            name = self._name(member)
            if name == _MANIFEST_NAME:
                self._check(self._document(tar, member), found)
                return
            if name in found:
                raise ArchiveError(f"{self.path} is damaged: it has {name!r} twice")
            content = tar.extractfile(member)
            if content is None:
                break
            hashed = _HashedFile(content)
            yield name, hashed
            while hashed.read(_CHUNK_BYTES):
                pass
            found[name] = Member(hashed.count, hashed.digest())
        raise self._truncated()

    def _read_format(self, tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> None:
        if member is None or member.name != _ROOT + _FORMAT_NAME:
            raise self._foreign()
        self.facts = self._document(tar, member)
        format_ = self.facts.get("format")
        if not isinstance(format_, int) or format_ < 1:
            raise self._foreign()
        if format_ > FORMAT:
            raise UsageError(
                f"{self.path} has format {format_}, newer than this Lineside knows ({FORMAT}): "
                f"restore it with Lineside {self.facts.get('lineside', 'that wrote it')!s:.50}"
            )

    def _document(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
        content = tar.extractfile(member) if member.isreg() else None
        if content is None or member.size > MAX_DOCUMENT_BYTES:
            raise self._foreign()
        document = json.loads(content.read())
        if not isinstance(document, dict):
            raise self._foreign()
        return document

    def _name(self, member: tarfile.TarInfo) -> str:
        name = member.name.removeprefix(_ROOT)
        is_file = member.isreg() and not member.issparse()
        if name == member.name or not is_file or not _NAME.fullmatch(name):
            raise ArchiveError(
                f"{self.path} is not an archive of `lineside backup`: it has "
                f"{member.name!r:.100}, which no backup has; nothing was restored"
            )
        return name

    def _check(self, manifest: dict[str, Any], found: Mapping[str, Member]) -> None:
        expected = manifest.get("members")
        if not isinstance(expected, dict):
            raise self._foreign()
        for name in sorted(expected.keys() | found.keys()):
            member = vars(found[name]) if name in found else None
            if expected.get(name) != member:
                raise ArchiveError(
                    f"{self.path} is damaged: {name!r} does not match its checksum; "
                    "take another copy of it, or an older backup"
                )
        self.manifest = manifest

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, tarfile.ReadError, zlib.error, gzip.BadGzipFile) as error:
            raise (self._truncated() if self.facts else self._foreign()) from error
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise self._foreign() from error

    def _truncated(self) -> ArchiveError:
        return ArchiveError(
            f"{self.path} is truncated or damaged: its end is missing; take another copy of it, "
            "or an older backup"
        )

    def _foreign(self) -> ArchiveError:
        return ArchiveError(
            f"{self.path} is not an archive of `lineside backup`, or its beginning is damaged"
        )


class _HashedFile:
    """Reads a file, and counts and hashes what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    def digest(self) -> str:
        """The SHA-256 of what was read."""
        return self._hash.hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put ``path`` into an error of the system that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Make new names in ``folder`` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock_folder(folder: Path, path: Path) -> FileLock:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        return FileLock(folder, wait=False)
    except BlockingIOError:
        raise UsageError(f"another process writes a backup to {path}: wait for its end") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
