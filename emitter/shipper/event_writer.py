"""Writes the shipper's own events, which go through the spool like all others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lineside.bus.errors import LinesideError
from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.emitter.spool.protected_file import file_limit
from lineside.emitter.spool.writer import SpoolWriter

log = logging.getLogger("lineside")

PRODUCER = "shipper"
_MOST_OPEN = 32  # streams whose files stay open between two events


class EventWriter:
    """Writes one stream ``run/shipper/<attempt>`` for each run that has events of the shipper."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._writers: dict[str, SpoolWriter] = {}
        self._open: dict[str, SpoolWriter] = {}  # those that hold files, the last used last
        self._warned: set[str] = set()

    @property
    def runs(self) -> set[str]:
        """The runs that have an open stream."""
        return set(self._writers)

    def write(self, run: str, kind: str, step: int, data: dict[str, Any]) -> bool:
        """Publish an event of ``run``; False if the disk refused it."""
        try:
            writer = self._writers.get(run)
            if writer is None:
                self._let_go()
                stream = Stream(run, PRODUCER, new_attempt())
                writer = SpoolWriter(self._spool, stream, role="shipper")
                self._writers[run] = writer
            elif run not in self._open:
                self._let_go()
                writer.reopen()
            self._open[run] = self._open.pop(run, writer)
            writer.maintain()
            return writer.write(kind, step, data=data)
        except (OSError, LinesideError) as error:
            if run not in self._warned:
                self._warned.add(run)
                log.warning("shipper: a %s of %s cannot be written: %s", kind, run, error)
            return False

    def reject(self, run: str, data: dict[str, Any]) -> None:
        """Publish in a control stream of ``run`` that a command was not applied."""
        try:
            stream = Stream(run, commands.CONTROL_PRODUCER, new_attempt())
            writer = SpoolWriter(self._spool, stream, role="control")
            writer.write(commands.REJECTED, data=data)
            writer.close()
        except (OSError, LinesideError) as error:
            log.warning("shipper: an answer of %s cannot be written: %s", run, error)

    def stream(self, run: str) -> Stream | None:
        """The open stream for ``run``, if there is one."""
        writer = self._writers.get(run)
        return writer.stream if writer else None

    def owns(self, stream: Stream) -> bool:
        """Whether ``stream`` is open here."""
        return self.stream(stream.run) == stream

    def close(self, run: str) -> None:
        """Close the stream for ``run``."""
        writer = self._writers.pop(run, None)
        if self._open.pop(run, None) is not None and writer is not None:
            writer.close()

    def close_all(self) -> None:
        """Close every stream."""
        for run in list(self._writers):
            self.close(run)

    def _let_go(self) -> None:
        """Close the files of the stream that was used longest ago, if many are open."""
        # Two files each: a quarter of the limit, and processes are watched with half of it.
        while len(self._open) >= min(_MOST_OPEN, max(1, file_limit() // 8)):
            self._open.pop(next(iter(self._open))).close()
