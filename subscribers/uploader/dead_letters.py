"""Batches that a receiver refused for good, as files, until a person sends them again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lineside.bus.settings import make_private_folder
from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.sinks.sink import Refused, Sink

FOLDER = "uploads"
MAX_BYTES = 100 << 20
"""Bytes of all files of one upload."""


class DeadLetters:
    """The files of the upload ``name`` in ``home``, one for each batch."""

    def __init__(self, home: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        self.folder = home / FOLDER / name
        self._max_bytes = max_bytes

    def keep(self, batch: Batch, reason: str) -> tuple[bool, str]:
        """Write ``batch``; whether there was space for it, and a sentence on where it is.

        Raises:
            OSError: it cannot be written.
        """
        body = json.dumps({"time": time.time(), "reason": reason, "batch": batch.to_json()})
        path = self.folder / f"{batch.points[0].time:012.0f}-{batch.key}.json"
        make_private_folder(self.folder.parent)
        make_private_folder(self.folder)
        used = sum(one.stat().st_size for one in self.files() if one != path)
        if used + len(body) > self._max_bytes:
            return False, f"They are lost: {self.folder} has its most of {self._max_bytes:,} bytes"
        new = path.with_suffix(".new")
        with new.open("w") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        return True, f"They are in {path}"

    def files(self) -> list[Path]:
        """The files, the oldest points first."""
        return sorted(self.folder.glob("*.json"))

    def resend(self, sink: Sink) -> Iterator[tuple[Path, str]]:
        """Send each batch; its file and why it was refused, or empty if it was taken and removed.

        Raises:
            Unavailable: the receiver does not take batches now.
        """
        for path in self.files():
            try:
                batch = Batch.from_json(json.loads(path.read_text())["batch"])
            except (KeyError, TypeError, ValueError, AttributeError):
                yield path, "the file has no batch"
                continue
            try:
                sink.send(batch)
            except Refused as error:
                yield path, str(error)
            else:
                path.unlink()
                yield path, ""


def refused_batches(home: Path) -> dict[str, list[Path]]:
    """The files of each upload that has some, by its name."""
    if not os.access(home / FOLDER, os.R_OK | os.X_OK):
        return {}
    found = {path.name: DeadLetters(home, path.name).files() for path in (home / FOLDER).iterdir()}
    return {name: files for name, files in sorted(found.items()) if files}
