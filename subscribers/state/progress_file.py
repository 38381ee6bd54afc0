"""How far a subscriber has got, in a file of the home that ``lineside.cli.health`` reads."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lineside.bus.settings import make_private_folder

WRITE_SECONDS = 5.0
"""How often a subscriber writes its file."""


class Progress(NamedTuple):
    """How a subscriber stood at ``written_at``, in seconds since the epoch.

    ``problem`` is why it cannot do its work, empty while it can. Everything that the journal held
    ``lag_seconds`` before is processed.
    """

    written_at: float
    problem: str
    lag_seconds: float

    @classmethod
    def read(cls, home: Path, name: str) -> Progress | None:
        """The progress of the subscriber ``name`` of ``home``; None if it has written none.

        Raises:
            OSError: its file cannot be read.
        """
        try:
            data = json.loads(_path(home, name).read_bytes())
            return cls(float(data["written_at"]), str(data["problem"]), float(data["lag_seconds"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # of another version, or cut off by a full disk


class ProgressFile:
    """Measures and writes the progress of the subscriber ``name`` of ``home``.

    ``clock`` is monotonic.
    """

    def __init__(self, home: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = _path(home, name)
        self._clock = clock
        self._mark = 0  # the end of the journal at ``_marked_at``
        self._marked_at = clock()
        self._write_at = 0.0

    def update(self, *, problem: str = "", head: int = 0, processed: int = 0) -> None:
        """Note the end of the journal and what is ``processed``; write when it is time.

        What cannot be written makes the file old, and the subscriber unhealthy.
        """
        now = self._clock()
        if not problem and processed >= self._mark:
            self._mark, self._marked_at = head, now
        if now >= self._write_at:
            self._write_at = now + WRITE_SECONDS
            lag = 0.0 if processed >= self._mark else now - self._marked_at
            with contextlib.suppress(OSError):
                self._write(Progress(time.time(), problem, lag))

    def restart(self) -> None:
        """Begin to measure anew: the offsets are now those of another journal."""
        self._mark = 0

    def _write(self, progress: Progress) -> None:
        draft = self._path.with_name(f".{self._path.name}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(progress._asdict(), file)
        draft.replace(self._path)

    def begin(self) -> None:
        """Make the folder of the file, and remove what an earlier process noted.

        A process that ends right after its start would be healthy by that.

        Raises:
            SettingsError: the folder cannot be made.
        """
        make_private_folder(self._path.parent)
        with contextlib.suppress(OSError):
            self._path.unlink()


def _path(home: Path, name: str) -> Path:
    return home / "health" / f"{name}.json"
