"""The events received since the last commit: each stream in order, once, without a hole."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lineside.bus.broker.storage.journal import NO_OWNERS, Cursor, Entry, Journal, Write
from lineside.bus.errors import BadMessage, CorruptRecord
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import HOLE, MAX_RECORDS, OK, GapMessage, Put
from lineside.bus.protocol.wire import count_records, skip_records
from lineside.bus.wording import plural

_SEQ_LIMIT = 1 << 63  # a seq is a signed 64-bit integer in the journal


class AppendBuffer:
    """Collects the writes of one transaction. Nothing is kept if that fails."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._writes: list[Write] = []
        self._next_seqs: dict[Stream, int] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._writes)

    def put(self, message: Put) -> str:
        """Take records, without those that the stream has already; return the status to answer.

        Raises:
            BadMessage: the blob is not exactly ``count`` whole, sound records.
        """
        stream, first_seq, count, blob = (
            message.stream,
            message.first_seq,
            message.count,
            message.blob,
        )
        if not 0 < count <= MAX_RECORDS:
            raise BadMessage(
                f"PUT of {stream}: {count} records announced, 1 to {MAX_RECORDS} may be"
            )
        try:
            found = count_records(blob)
        except CorruptRecord as error:
            raise BadMessage(f"PUT of {stream}: {error}") from None
        if found != count:
            raise BadMessage(f"PUT of {stream}: {plural(count, 'record')} announced, {found} found")
        end = first_seq + count
        if end >= _SEQ_LIMIT:
            raise BadMessage(f"PUT of {stream}: {count} records from {first_seq} pass the last seq")
        expected = self.next_seq(stream)
        if first_seq > expected:
            return HOLE
        if end > expected:
            duplicates = expected - first_seq
            if duplicates:
                blob = bytes(skip_records(blob, duplicates))
            self._add(Write(stream, expected, end - expected, blob))
        return OK

    def gap(self, stream: Stream, message: GapMessage) -> str:
        """Take seqs that the producer cannot supply; return the status to answer."""
        expected = self.next_seq(stream)
        if message.first > expected:
            return HOLE
        if message.end > expected:
            self._add(Write(stream, expected, message.end - expected, None))
        return OK

    def next_seq(self, stream: Stream) -> int:
        """The seq after the last one of the stream, committed or not."""
        found = self._next_seqs.get(stream)
        return self._journal.next_seq(stream) if found is None else found

    def append_own(self, stream: Stream, encode: Callable[[int], bytes]) -> None:
        """Take one record of the broker's own ``stream``; ``encode`` makes it from its seq."""
        seq = self.next_seq(stream)
        self._add(Write(stream, seq, 1, encode(seq)))

    def commit(
        self,
        cursors: Mapping[str, Cursor],
        expire_before: int = 0,
        owners: Mapping[str, str] = NO_OWNERS,
    ) -> list[Entry]:
        """Append everything, with ``cursors`` and ``owners``, and expire entries before an offset.

        Afterwards the buffer is empty, also after an error.

        Raises:
            JournalError: nothing was appended.
        """
        writes, self._writes, self.size = self._writes, [], 0
        self._next_seqs.clear()
        first = self._journal.append(writes, cursors, expire_before, owners)
        return [Entry(offset, *write) for offset, write in enumerate(writes, first)]

    def _add(self, write: Write) -> None:
        self._writes.append(write)
        self._next_seqs[write.stream] = write.first_seq + write.records
        self.size += len(write.blob or b"")
