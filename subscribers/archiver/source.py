"""Where a checkpoint is read from: its hold, or the checkpoint itself, a folder or a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from lineside.bus.checkpoints.hold import hold_path, reading, remove_hold
from lineside.store.archive.whole import missing_files

_RUN_FILE = "lineside_run.json"  # training writes it into each checkpoint

Stamp = tuple[int, int, int]
"""Identifies the folder of a hold and the names in it: they change when training saves again."""


class SourceGone(Exception):
    """There is nothing left to read; the message is the reason."""


def source_of(checkpoint: str, hold: str | None) -> Path:
    """What to read: ``hold`` while it is there, else the checkpoint.

    Raises:
        SourceGone: neither is there.
    """
    for path in (hold, checkpoint):
        if path and Path(path).exists():
            return Path(path)
    if not Path(checkpoint).parent.is_dir():
        raise SourceGone(
            f"{Path(checkpoint).parent} is not there: it was deleted, or is on another machine"
        )
    raise SourceGone("the checkpoint was deleted before it was archived, and no hold of it is left")


def find_hold(checkpoint: str) -> str | None:
    """The hold of a checkpoint that training has not passed on; None if there is none."""
    hold = hold_path(Path(checkpoint))
    return str(hold) if hold.is_dir() else None


def find_missing(source: Path, run: str, world_size: int) -> list[str]:
    """The files that are missing in ``source``, or cut short.

    Raises:
        SourceGone: it is the checkpoint of another run by now.
        OSError: it cannot be read.
    """
    owner = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        owner = json.loads((source / _RUN_FILE).read_bytes()).get("run_id")
    if isinstance(owner, str) and owner != run:
        raise SourceGone(f"run {owner} has saved another checkpoint there")
    return missing_files(source, world_size)


@contextlib.contextmanager
def kept(source: Path, hold: str | None) -> Iterator[Stamp | None]:
    """Keep the hold that ``source`` is from removal in the block; its stamp, None if it is none."""
    if hold is None or source != Path(hold):
        yield None
        return
    with reading(source):
        yield stamp(source)


def stamp(folder: Path) -> Stamp | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


def release(hold: str, read: Stamp | None, *, is_over: bool) -> bool:
    """Remove ``hold``; whether it is gone.

    While its attempt is not ``is_over``, one that was changed since it was ``read`` stays: training
    has saved again, and passes that on next. ``read`` None is a hold that was not read.
    """
    folder = Path(hold)
    if not is_over and read is not None and stamp(folder) not in (read, None):
        return False
    return remove_hold(folder)
