"""The free space of the file systems that a training writes to."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Set
from pathlib import Path

import psutil

log = logging.getLogger("lineside")

ANSWER_SECONDS = 1.0
"""How long file systems are waited for, all together."""


class FilesystemMetrics:
    """Reads how much space is left in folders.

    A file system may not answer for hours, as that of a server that is away. So each question has a
    thread of its own, is not waited for long, and not put again before it is answered.
    """

    def __init__(self) -> None:
        self._questions: dict[Path, _Question] = {}

    def ask(self, folders: Set[Path]) -> None:
        """Ask for the space of these folders, and forget all others.

        A folder that does not exist yet is on the file system of the one above it.
        """
        for folder in self._questions.keys() - folders:
            del self._questions[folder]
        for folder in folders:
            last = self._questions.get(folder)
            if last is None or last.is_answered:
                self._questions[folder] = _Question(folder)
        deadline = time.monotonic() + ANSWER_SECONDS
        for question in self._questions.values():
            question.wait(deadline)

    def read(self, folders: Mapping[str, Path]) -> dict[str, float]:
        """The answers for ``folders``, by the name given to each."""
        return {
            f"filesystem/{name}/{metric}": value
            for name, folder in folders.items()
            for metric, value in self._questions[folder].answer.items()
        }


class _Question:
    """One question for the space of a folder, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.answer: dict[str, float] = {}
        self._folder = folder
        self._is_late = False
        self._thread = threading.Thread(target=self._ask, name="filesystem", daemon=True)
        self._thread.start()

    @property
    def is_answered(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, deadline: float) -> None:
        """Wait for the answer until ``deadline``; not again for one that was late."""
        if self._is_late:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._is_late = True
            log.warning("sampler: the file system of %s does not answer", self._folder)

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            usage = psutil.disk_usage(str(_existing(self._folder)))
            self.answer = {"available_bytes": usage.free, "size_bytes": usage.total}


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
