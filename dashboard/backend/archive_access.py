"""Reads checkpoints from the archive, as tar files made while they are sent."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Callable, Iterator

from lineside.bus.errors import LinesideError
from lineside.dashboard.http.problems import Problem
from lineside.store.archive.archive import Archive
from lineside.store.archive.errors import ArchiveCorrupt
from lineside.store.archive.keys import ManifestKey
from lineside.store.archive.manifest import Manifest, ManifestFile

ArchiveOpener = Callable[[], "Archive | None"]
"""Opens the archive; returns None if none is configured, and raises LinesideError."""
_NO_ARCHIVE = (
    "This dashboard knows no archive: start it with `--archive URL`, or with a configuration that "
    "has `archive.url`."
)
_PARTS_OF_KEY = 4  # runs/RUN/checkpoints/NAME.json
_END = bytes(2 * tarfile.BLOCKSIZE)


class ArchiveAccess:
    """The archive that ``opener`` opens at its first use. Any thread may use it."""

    def __init__(self, opener: ArchiveOpener | None) -> None:
        self._opener = opener
        self._opened: Archive | str | None = None
        self._lock = threading.Lock()

    @property
    def unavailable_reason(self) -> str:
        """Why there is no archive to download from; empty if there is one."""
        opened = self._open()
        return opened if isinstance(opened, str) else ""

    def open_tar(self, run: str, address: str) -> CheckpointTar:
        """The checkpoint of ``run`` whose manifest is at ``address``, as a tar.

        Raises:
            Problem: there is no archive here, it cannot be read, or it is damaged.
        """
        archive = self._open()
        if isinstance(archive, str):
            raise _unavailable(archive)
        key = ManifestKey.parse("/".join(address.split("/")[-_PARTS_OF_KEY:]))
        if key is None or key.run != run:
            detail = f"{address} is no address of a manifest of run {run}."
            raise Problem(502, "archive-damaged", "Damaged in the archive", detail)
        try:
            return CheckpointTar(archive, archive.read_manifest(key))
        except ArchiveCorrupt as error:
            detail = f"{error}. It was archived to {address}; this dashboard reads {archive.url}."
            raise Problem(502, "archive-damaged", "Damaged in the archive", detail) from error
        except LinesideError as error:
            raise _unavailable(str(error)) from error

    def _open(self) -> Archive | str:
        """The archive, or why there is none; an archiver that starts later makes one."""
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = self._opener() if self._opener else None
                except LinesideError as error:
                    self._opened = str(error)
            return _NO_ARCHIVE if self._opened is None else self._opened


class CheckpointTar:
    """The bytes of a tar with the files of ``manifest`` in one folder.

    Its headers are made first, so that ``size`` is known; the parts are read while it is iterated.
    """

    def __init__(self, archive: Archive, manifest: Manifest) -> None:
        self._archive = archive
        self._manifest = manifest
        facts = manifest.facts
        self.folder = f"checkpoint-{facts.step}"
        self._headers = [self._header(file) for file in manifest.files]
        sizes = (len(header) for header in self._headers)
        padded = (file.size + _padding(file.size) for file in manifest.files)
        self.size = sum(sizes) + sum(padded) + len(_END)

    def __iter__(self) -> Iterator[bytes]:
        run = self._manifest.facts.run
        for header, file in zip(self._headers, self._manifest.files, strict=True):
            yield header
            for part in file.parts:
                yield self._archive.read_part(run, part, file.path)
            yield bytes(_padding(file.size))
        yield _END

    def _header(self, file: ManifestFile) -> bytes:
        entry = tarfile.TarInfo(f"{self.folder}/{file.path}")
        entry.size, entry.mode = file.size, 0o644
        entry.mtime = int(self._manifest.facts.saved_at)
        return entry.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _unavailable(detail: str) -> Problem:
    return Problem(503, "archive-unavailable", "The archive cannot be read", detail)
