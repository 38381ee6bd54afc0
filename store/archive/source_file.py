"""A file of a checkpoint to archive, and the files of a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lineside.store.archive.errors import SourceChanged


@dataclass(frozen=True)
class SourceFile:
    """A file by its relative POSIX ``path``, with its size and time of change when it was listed.

    ``open`` opens it for reading from its beginning; what has a descriptor is compared with
    ``mtime_ns`` before and after it is read. A ``scrubbed`` one has other bytes than the file that
    training wrote.
    """

    path: str
    size: int
    mtime_ns: int
    open: Callable[[], BinaryIO]
    scrubbed: bool = False


def of_folder(folder: Path) -> list[SourceFile]:
    """The files below ``folder``, sorted by path.

    Of a checkpoint that is a file it is the only one.

    A link to a file counts as the file; links that lead out of the folder, and links to folders,
    are left out, as are sockets, pipes and devices.

    Raises:
        SourceChanged: a file went while the folder was listed.
        OSError: the folder cannot be read.
    """
    if folder.is_file():
        status = folder.stat()
        return [SourceFile(folder.name, status.st_size, status.st_mtime_ns, _Opener(folder))]
    root = folder.resolve(strict=True)
    found: list[SourceFile] = []
    for place, folders, names in os.walk(root, onerror=_raise):
        folders.sort()
        for name in names:
            file = Path(place, name)
            path = file.relative_to(root).as_posix()
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                continue
            try:
                status = file.stat()
            except FileNotFoundError:
                if file.is_symlink():
                    continue  # it leads nowhere
                raise SourceChanged(str(file), "went") from None
            if stat.S_ISREG(status.st_mode):
                opener = _Opener(file)
                found.append(SourceFile(path, status.st_size, status.st_mtime_ns, opener))
    return sorted(found, key=lambda file: file.path)


@dataclass(frozen=True)
class _Opener:
    file: Path

    def __call__(self) -> BinaryIO:
        return self.file.open("rb")


def _raise(error: OSError) -> None:
    raise error
