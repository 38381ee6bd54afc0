"""The events of a recorded attempt on a pipe: a line of JSON for each, and one that ends them."""

from __future__ import annotations

import json
import os
import select
import time
from dataclasses import asdict

from lineside.bus.client.reader import Batch
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.callback_host.trackers.tracker import RunEnd

_READ_BYTES = 1 << 16


class RecordedEventsError(LinesideError):
    """A line that is none of these."""


def event_line(stream: Stream, event: Event) -> bytes:
    """An event as a line."""
    return json.dumps([str(stream), asdict(event)]).encode() + b"\n"


def end_line(end: RunEnd) -> bytes:
    """The last line: how the attempt ended, if its events do not show that."""
    return json.dumps([asdict(end)]).encode() + b"\n"


class RecordedReader:
    """Reads the lines from a file descriptor, in place of a reader at the broker.

    ``end`` is that of the last line, None before it; with ``is_cut`` the pipe ended without it.
    """

    journal = None
    restarts = 0

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[bytes] = []  # complete ones, the next one last
        self._rest = b""
        self.end: RunEnd | None = None
        self.is_cut = False
        self.head = self.processed = 0

    @property
    def is_subscribed(self) -> bool:
        """Whether ``head`` is known."""
        return self.end is not None

    def poll(self, timeout: float) -> Batch | None:
        """The next event; None if none comes within ``timeout``."""
        if not self._lines and not self._read(timeout):
            return None
        line = self._lines.pop()
        try:
            fields = json.loads(line)
            if len(fields) == 1:
                self.end = RunEnd(**fields[0])
                return None
            stream, event = Stream.parse(fields[0]), Event(**fields[1])
        except (ValueError, TypeError, LinesideError) as error:
            raise RecordedEventsError(
                f"{line!r:.200} is no recorded event ({error}): expected a line of this version; "
                "install the same Lineside in both environments"
            ) from error
        self.head += 1
        return Batch(self.head, stream, (event,), ())

    def commit(self, offset: int) -> None:
        """Everything up to ``offset`` is processed."""
        self.processed = offset

    def forget(self) -> None:
        """There is no place to forget."""

    def close(self) -> None:
        """The process ends, and its descriptors with it."""

    def _read(self, timeout: float) -> bool:
        """Take what is there; whether that ends a line."""
        if self.end is not None or self.is_cut:
            time.sleep(timeout)
            return False
        if not select.select([self._descriptor], [], [], timeout)[0]:
            return False
        read = os.read(self._descriptor, _READ_BYTES)
        self.is_cut = not read
        *lines, self._rest = (self._rest + read).split(b"\n")
        self._lines = lines[::-1]
        return bool(lines)
