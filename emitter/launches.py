"""The list through which training processes tell ``lineside run`` what streams they opened."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lineside.bus.errors import StreamNameError
from lineside.bus.events import Stream

VARIABLE = "LINESIDE_LAUNCH"
"""Set by ``lineside run`` for its children: the folder that holds the list."""
_FILE_NAME = "streams"


def register(stream: Stream) -> None:
    """Add ``stream`` to the list if ``lineside run`` started this process; never raises."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    with contextlib.suppress(OSError):
        fd = os.open(
            Path(folder) / _FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(fd, f"{stream}\n".encode())
        finally:
            os.close(fd)


def read(folder: Path) -> list[Stream]:
    """The streams registered in ``folder``, oldest first; lines that are no stream are left out."""
    try:
        lines = (folder / _FILE_NAME).read_text(errors="replace").splitlines()
    except OSError:
        return []
    streams = []
    for line in lines:
        with contextlib.suppress(StreamNameError):
            streams.append(Stream.parse(line))
    return streams
