"""The training processes of a spool on this machine, which live while their streams are locked."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import Stream, is_rank
from lineside.bus.protocol.messages import Put
from lineside.bus.protocol.wire import decode_event, record_bodies
from lineside.emitter.spool import directory
from lineside.emitter.spool.segment_reader import SegmentReader
from lineside.emitter.spool.sidecar_process import lock_holder
from lineside.emitter.spool.status_reader import StreamInfo, read_page
from lineside.emitter.spool.stream_folder import LOCK_NAME

# A search takes long where a spool has many old streams: pause this many times as long.
_SEARCH_SHARE = 500.0


class Training(NamedTuple):
    """The live processes of ``run`` on this machine, and the step that the first of them is at."""

    run: str
    pids: frozenset[int]
    step: int
    output_folder: Path
    """Where it writes its checkpoints; its working directory if that is not known."""


class Trainings:
    """Finds the trainings under ``spool`` that run on this machine."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._live: dict[Stream, _Rank] = {}
        self._announced_ns = -1
        self._search_at = 0.0

    def __iter__(self) -> Iterator[Training]:
        """The trainings found by ``update``, each with its step now."""
        ranks: dict[str, list[_Rank]] = {}
        for stream in sorted(self._live):
            ranks.setdefault(stream.run, []).append(self._live[stream])
        for run, found in ranks.items():
            page = read_page(found[0].path)
            pids = frozenset(rank.pid for rank in found)
            yield Training(run, pids, page.step if page else 0, found[0].output_folder)

    def update(self) -> bool:
        """Look for new and ended processes; whether any lives.

        A producer that opens a stream changes the time of the spool's root, so most calls only ask
        for the locks of the streams that are known.
        """
        for stream, rank in list(self._live.items()):
            if _live_pid(rank.path) != rank.pid:
                del self._live[stream]
        with contextlib.suppress(OSError):
            announced_ns, now = self._spool.stat().st_mtime_ns, time.monotonic()
            if announced_ns != self._announced_ns and now >= self._search_at:
                self._announced_ns = announced_ns
                self._search()
                self._search_at = now + _SEARCH_SHARE * (time.monotonic() - now)
        return bool(self._live)

    def _search(self) -> None:
        for stream, path in directory.streams(self._spool):
            if stream in self._live or not is_rank(stream.producer):
                continue
            pid = _live_pid(path)
            if pid is not None and StreamInfo.read(path).is_local:
                self._live[stream] = _Rank(stream, path, pid)


@dataclass
class _Rank:
    stream: Stream
    path: Path
    pid: int

    @cached_property
    def output_folder(self) -> Path:
        """The training's ``output_dir``, by its first event, or else its working directory."""
        try:
            working = Path(os.readlink(f"/proc/{self.pid}/cwd"))  # noqa: PTH115 - it may be gone
        except OSError:
            working = Path("/")
        with contextlib.suppress(OSError, LinesideError, LookupError, TypeError, ValueError):
            batch = SegmentReader(self.stream, self.path).read(final=False)
            if isinstance(batch, Put):
                data = decode_event(next(record_bodies(batch.blob))).data or {}
                return working / str(data["args"]["output_dir"])
        return working


def _live_pid(path: Path) -> int | None:
    """The process that holds the lock of the stream in ``path``, if it is one of this machine."""
    with contextlib.suppress(OSError):
        pid = lock_holder(path / LOCK_NAME)
        return pid if pid is not None and pid > 0 else None
    return None
