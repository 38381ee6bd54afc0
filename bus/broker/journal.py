"""What the broker needs of a log: every batch it accepted, numbered, kept before anybody hears."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.patterns import Patterns

NO_OWNERS: Mapping[str, str] = MappingProxyType({})
FORGOTTEN = -1
"""The cursor of a durable name that is to be removed."""


class Write(NamedTuple):
    """What is to be appended: ``records`` of them, or with ``blob`` None a gap of as many seqs."""

    stream: Stream
    first_seq: int
    records: int
    blob: bytes | None


class Entry(NamedTuple):
    """What was appended, and its place in the journal. Offsets start at 1 and have no holes.

    With ``stream`` None the entry at ``offset`` can no longer be read.
    """

    offset: int
    stream: Stream | None
    first_seq: int
    records: int
    blob: bytes | None


class Journal(Protocol):
    """What the broker needs of a log: five calls.

    ``id`` is random, one for each journal. ``head`` is the newest offset (0 when nothing was ever
    appended), ``first`` the oldest one still kept (``head + 1`` if none is). ``owners`` are kept as
    given: which key a run or a name belongs to.
    """

    id: str
    head: int
    first: int
    owners: dict[str, str]

    def append(
        self,
        writes: Sequence[Write],
        cursors: Mapping[str, int],
        expire_before: int = 0,
        owners: Mapping[str, str] = NO_OWNERS,
    ) -> int:
        """Commit all of it or nothing; the offset of the first write, the others follow.

        Entries before ``expire_before`` are deleted with the same commit.
        """

    def next_seq(self, stream: Stream) -> int:
        """The seq after the last one appended to ``stream``; 0 for a stream never seen."""

    def read(self, after: int, limit: int, patterns: Patterns) -> tuple[list[Entry], int]:
        """Entries of ``patterns`` streams after an offset, in order, about ``limit`` bytes, and up
        to
        which offset there are no others."""

    def streams(self) -> Collection[Stream]:
        """Every stream that was ever appended to."""

    def cursors(self) -> dict[str, int]:
        """How far each durable reader is."""
