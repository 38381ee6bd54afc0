"""Spools of one writer, read back from the disk."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.spool.status_page import FILE_NAME, PAGE_BYTES
from lineside.emitter.spool.writer import SpoolWriter

STREAM = Stream("run", "rank0", "attempt")
_ASK_LOCK = """
import sys; from pathlib import Path; from lineside.emitter.spool.liveness_lock import holder_pid
print(holder_pid(Path(sys.argv[1])))
"""

MakeWriter = Callable[..., SpoolWriter]


class PageOnDisk:
    """The status page in ``folder`` as another process sees it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    @property
    def fields(self) -> tuple[int, ...]:
        return struct.unpack(f"={PAGE_BYTES // 8}q", self._path.read_bytes())


def events(root: Path) -> list[Event]:
    segments = sorted(root.glob("*/*/*/*.seg"))
    blob = b"".join(segment.read_bytes() for segment in segments)
    return [wire.decode_event(body) for body in wire.record_bodies(blob)]


def holder_of(lock: Path) -> str:
    asked = [sys.executable, "-c", _ASK_LOCK, str(lock)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
