"""The errors of an archive.

ArchiveError (LinesideError)
├── ArchiveLocationError    exit code 2: the URL or its options cannot be used
├── ArchiveUnavailable      the network, a server's fault, a full disk: trying again may help
├── ArchiveDenied           credentials, permissions, no bucket: a person has to mend it
├── ArchiveCorrupt          objects that are damaged, swapped or missing, as ``faults``
├── SourceChanged           a file of the checkpoint changed or went while it was read
├── RestoreRefused          the target of a restore cannot be used
└── ArchiveStopped          the caller's stop event was set
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lineside.bus.errors import LinesideError, UsageError


@dataclass(frozen=True)
class Fault:
    """A damaged object: its key, what is wrong with it, and the ``files`` that it affects."""

    key: str
    problem: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = ", ".join(self.files[:3]) + (", ..." if len(self.files) > 3 else "")
        return f"{named}: {self.key} {self.problem}" if named else f"{self.key} {self.problem}"


class ArchiveError(LinesideError):
    """An archive cannot be used, now or at all."""


class ArchiveLocationError(ArchiveError, UsageError):
    """The URL of an archive, or an option of it, cannot be used."""


class ArchiveUnavailable(ArchiveError):
    """The archive cannot be had now; trying again may help."""


class ArchiveDenied(ArchiveError):
    """The archive refuses; trying again helps only after a person has mended the cause."""


class ArchiveCorrupt(ArchiveError):
    """Objects of the archive are damaged or missing."""

    def __init__(self, what: str, faults: Sequence[Fault]) -> None:
        shown = "; ".join(str(fault) for fault in faults[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        super().__init__(f"{what} is damaged in the archive: {shown}{more}")
        self.faults = tuple(faults)


class SourceChanged(ArchiveError):
    """A file changed or went while it was read; a newer save of the checkpoint takes its place."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} {why} while it was archived")
        self.path = path


class RestoreRefused(ArchiveError):
    """The target of a restore cannot be used; nothing was written there."""


class ArchiveStopped(ArchiveError):
    """The caller's stop event was set; what was sent stays, and is not sent again."""

    def __init__(self) -> None:
        super().__init__("stopped before the checkpoint was whole in the archive")
