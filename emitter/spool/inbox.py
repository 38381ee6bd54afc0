"""The file through which the shipper passes commands to a training process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Event

FILE_NAME = "inbox"


def deliver(folder: Path, records: Sequence[bytes]) -> int:
    """Append ``records`` for the stream in ``folder``; the size of the inbox afterwards.

    Raises:
        OSError: they cannot be written; none of them counts.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    fd = os.open(folder / FILE_NAME, flags, 0o600)
    try:
        before = os.fstat(fd).st_size
        data = b"".join(records)
        if os.write(fd, data) != len(data):
            os.ftruncate(fd, before)
            raise OSError(28, "no room for a whole command", str(folder / FILE_NAME))
        return before + len(data)
    finally:
        os.close(fd)


def read(folder: Path, first: int, end: int) -> list[Event]:
    """The events in bytes ``first`` to ``end`` (excluded); damaged records are skipped.

    Raises:
        OSError: the file cannot be read.
    """
    fd = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, end - first, first)
    finally:
        os.close(fd)
    events = []
    for body in wire.record_bodies(data):
        try:
            events.append(wire.decode_event(body))
        except ValueError:
            continue
    return events
