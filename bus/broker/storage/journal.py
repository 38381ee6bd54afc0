"""The journal interface of the broker: a log of accepted batches, numbered by offset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.patterns import Patterns

NO_OWNERS: Mapping[str, str] = MappingProxyType({})


class Write(NamedTuple):
    """A batch to append: ``records`` records, or with ``blob`` None a gap of as many seqs."""

    stream: Stream
    first_seq: int
    records: int
    blob: bytes | None


class Entry(NamedTuple):
    """A batch in the journal. Offsets start at 1 and have no holes.

    With ``stream`` None the entry at ``offset`` cannot be read any more.
    """

    offset: int
    stream: Stream | None
    first_seq: int
    records: int
    blob: bytes | None


class Cursor(NamedTuple):
    """The place of a durable reader.

    ``offset``: it has processed every entry of its streams up to here. ``confirmed``: the newest
    entry up to there that was for the reader; the others it did not ask for. ``streams``: the
    digest of its patterns.
    """

    offset: int
    confirmed: int
    streams: str = ""


FORGOTTEN = Cursor(-1, -1)
"""The cursor of a durable name that is to be removed."""


class Scan(Protocol):
    """A place in the journal of one reader."""

    def read(self, after: int, head: int, limit: int, deadline: float) -> tuple[list[Entry], int]:
        """Matching entries after an offset, about ``limit`` bytes, and how far it read.

        At the head it has read them all, and a damaged one has no stream. It ends soon after
        ``deadline`` in monotonic seconds. If it then has found nothing it has not read anything,
        and the next call goes on where this one ended. Calls must neither go back nor begin before
        the journal's first entry.

        Raises:
            JournalError: it cannot be read now.
        """


class Journal(Protocol):
    """A replicated log may take the place of the SQLite one by these calls.

    ``id`` is random, one for each journal. ``head`` is the newest offset (0 if nothing was ever
    appended), ``first`` the oldest one still kept (``head + 1`` if none is). ``owners`` maps runs,
    streams and names to the keys that own them, and is kept as given.
    """

    id: str
    head: int
    first: int
    owners: dict[str, str]

    def append(
        self,
        writes: Sequence[Write],
        cursors: Mapping[str, Cursor],
        expire_before: int = 0,
        owners: Mapping[str, str] = NO_OWNERS,
    ) -> int:
        """Commit everything or nothing; return the offset of the first write.

        Entries before ``expire_before`` are deleted with the same commit.
        """

    def next_seq(self, stream: Stream) -> int:
        """The seq after the last one appended to ``stream``; 0 for a stream never seen."""

    def scan(self, patterns: Patterns) -> Scan:
        """Read the entries of ``patterns``."""

    def backlog(self, after: int) -> tuple[int, float]:
        """Records after an offset (0 if their number is not known), and the seconds they wait."""

    def streams(self) -> Collection[Stream]:
        """Every stream that was ever appended to."""

    def cursors(self) -> dict[str, Cursor]:
        """The cursor of each durable reader."""

    def forget_cursors(self, before: float, keep: Collection[str]) -> list[str]:
        """Forget cursors not moved since ``before`` (seconds since the epoch), but for ``keep``."""

    def oldest(self) -> Iterator[tuple[int, float, int, int]]:
        """Offset, time of commit, records and bytes of each entry, the oldest first."""

    def size(self) -> tuple[int, int]:
        """Bytes in use, and bytes that are free for later entries."""

    def release_space(self, size: int) -> None:
        """Return up to ``size`` free bytes to the file system."""
