"""The streams of a journal, by their numbers, names and runs."""

from __future__ import annotations

from collections.abc import Iterator

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.patterns import Patterns


class StreamIndex:
    """Every stream that was ever appended to, with its number in the journal: 1, 2, 3, ..."""

    def __init__(self) -> None:
        self.ids: dict[Stream, int] = {}
        self.streams: dict[int, Stream] = {}
        self._by_run: dict[str, list[int]] = {}

    def add(self, stream: Stream, id_: int) -> None:
        """Add a stream that is not there yet."""
        self.ids[stream], self.streams[id_] = id_, stream
        self._by_run.setdefault(stream.run, []).append(id_)

    def find(self, patterns: Patterns) -> Iterator[int]:
        """The numbers of the streams that match, with a 0 in place of each one that does not.

        So a caller can stop after any stream, and go on later. Streams added meanwhile may be
        left out.
        """
        runs = patterns.runs()
        if runs is None:
            ids: Iterator[int] = iter(range(1, len(self.streams) + 1))
        else:
            ids = (id_ for run in runs for id_ in self._by_run.get(run, (0,)))
        for id_ in ids:
            yield id_ if id_ and self.streams[id_] in patterns else 0
