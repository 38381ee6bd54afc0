"""Where an archive is, and with which options it is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lineside.store.archive.archive import Archive
from lineside.store.archive.errors import ArchiveLocationError
from lineside.store.archive.objects.folder import Folder
from lineside.store.archive.objects.pace import Pace
from lineside.store.archive.objects.remote import Remote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_EXPECTED = (
    "expected a folder (/path or file:///path), s3://bucket/prefix, gs://bucket/prefix or "
    "az://container/prefix"
)


@dataclass(frozen=True)
class ArchiveLocation:
    """The URL of an archive, with the ``options`` of its store; they hold secrets and stay hidden.

    Raises:
        ArchiveLocationError: the URL cannot be used.
    """

    url: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.parse()

    def parse(self) -> tuple[str, str, str]:
        """Scheme, bucket and prefix; of a folder ``file``, nothing and its absolute path."""
        match = _SCHEME.fullmatch(self.url)
        scheme, rest = (match[1].lower(), match[2]) if match else ("file", self.url)
        if scheme == "file":
            return scheme, "", str(self._folder(rest))
        if scheme not in ("s3", "gs", "az"):
            raise ArchiveLocationError(
                f"an archive cannot be at a URL with the scheme {scheme!r}: {_EXPECTED}"
            )
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket or "?" in rest:
            # What is wrong may be a secret, so the message does not repeat it.
            raise ArchiveLocationError(
                f"a URL of an archive holds no credentials and no query: {_EXPECTED}; "
                "credentials are options, or variables of the environment"
            )
        prefix = prefix.strip("/")
        if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
            raise ArchiveLocationError(f"archive {self.url!r} cannot be used: {_EXPECTED}")
        return scheme, bucket, prefix

    def _folder(self, path: str) -> Path:
        folder = Path(path).expanduser()
        if not folder.is_absolute() or "\0" in path:
            raise ArchiveLocationError(f"archive {self.url!r} cannot be used: {_EXPECTED}")
        return folder


def open_archive(
    location: ArchiveLocation, *, parallel: int = 4, bytes_per_second: float = 0.0
) -> Archive:
    """The archive at ``location``. No connection is made before its first use.

    Args:
        location: where it is.
        parallel: how many parts are sent or read at a time; each takes 64 MiB of memory.
        bytes_per_second: limits what goes over the network or into the folder; 0 is no limit.

    Raises:
        ArchiveLocationError: an option is not one of the store's.
        MissingExtra: the store needs the extra ``archive``, which is not installed.
    """
    scheme, bucket, path = location.parse()
    pace = Pace(bytes_per_second)
    if scheme == "file":
        if location.options:
            names = ", ".join(sorted(location.options))
            raise ArchiveLocationError(f"an archive in a folder has no options, found {names}")
        return Archive(location.url, Folder(Path(path), pace), parallel)
    remote = Remote(location.url, bucket, path, location.options, pace)
    return Archive(location.url, remote, parallel)
