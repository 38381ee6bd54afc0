"""A progress line for what is read from the archive."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lineside.cli.output import StatusLine
from lineside.dashboard.formatting import duration, size

if TYPE_CHECKING:
    from lineside.store.archive.archive import Progress

_BAR = 20  # characters
_SECONDS = 0.2  # between two updates


class ByteProgress:
    """Shows how many of ``total`` bytes are done, at which rate, and how long the rest takes."""

    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._line = StatusLine()
        self._began = time.monotonic()
        self._shown = 0.0
        self._update(0, total)

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.clear()

    def show(self, progress: Progress) -> None:
        """Show ``progress``; the archive calls it."""
        if time.monotonic() - self._shown >= _SECONDS:
            self._update(progress.done, progress.total)

    def _update(self, done: int, total: int) -> None:
        self._shown = time.monotonic()
        self._line.update(progress_text(self._title, done, total, self._shown - self._began))


def progress_text(title: str, done: int, total: int, seconds: float) -> str:
    """``step 100 [#####...............] 25 %, 1 GB of 4 GB, 50 MB/s, 1m 00s left``."""
    part = min(1.0, done / total) if total else 1.0
    bar = ("#" * int(part * _BAR)).ljust(_BAR, ".")
    text = f"{title} [{bar}] {100 * part:.0f} %, {size(done)} of {size(total)}"
    if seconds > 0 and done:
        rate = done / seconds
        text += f", {size(rate)}/s, {duration((total - done) / rate)} left"
    return text
