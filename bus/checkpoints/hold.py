"""Names, locks and removal of holds, and the file that asks trainings for them.

The hold of ``<output_dir>/checkpoint-8`` is the folder ``<output_dir>/_lineside/checkpoint-8``.
Neither the Trainer's rotation nor its push to the hub takes that name. Names in ``_lineside`` that
begin with a dot are no holds: what is on its way out, or what a crash has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

HOLD_FOLDER = "_lineside"
HOLD_FILE = "hold.json"
"""The file in the home that asks trainings to hold their checkpoints."""
_GONE, _DRAFT = ".gone-", ".new-"
_TRIES = 3
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class HoldLimits:
    """How much holds may keep that training has deleted: checkpoints, and gibibytes (0: no limit).

    A hold whose checkpoint is still in place takes no room and does not count.
    """

    max_held: int = 5
    max_held_gb: float = 0.0


def write_limits(home: Path, limits: HoldLimits | None, archive: str = "") -> None:
    """Ask the trainings of ``home`` to hold checkpoints for the ``archive``; with None, not to.

    Raises:
        OSError: the file cannot be written or removed.
    """
    file = home / HOLD_FILE
    if limits is None:
        file.unlink(missing_ok=True)
        return
    draft = file.with_name(f"{HOLD_FILE}.{os.getpid()}")
    draft.write_text(json.dumps({**asdict(limits), "archive": archive}))
    draft.replace(file)


def read_limits(home: Path, wanted: bool | None = None) -> HoldLimits | None:
    """The limits for the holds of a training; None if it has to make none.

    ``wanted`` is the script's or the environment's own choice; None leaves it to the home's file.
    A file that cannot be understood asks for the default limits.
    """
    if wanted is False:
        return None
    try:
        values = json.loads((home / HOLD_FILE).read_bytes())
        return HoldLimits(
            max_held=_at_least_0(int(values["max_held"])),
            max_held_gb=_at_least_0(float(values["max_held_gb"])),
        )
    except OSError:
        return HoldLimits() if wanted else None
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return HoldLimits()


def archive_of(home: Path) -> str:
    """The URL of the archive for which trainings of ``home`` hold checkpoints, or nothing."""
    try:
        return str(json.loads((home / HOLD_FILE).read_bytes())["archive"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def hold_path(checkpoint: Path) -> Path:
    """Where the hold of this checkpoint is, or would be."""
    return checkpoint.parent / HOLD_FOLDER / checkpoint.name


def draft_path(hold: Path) -> Path:
    """A new name in ``_lineside`` for what becomes ``hold``, or a part of it, by a rename."""
    return hold.with_name(f"{_DRAFT}{hold.name}.{secrets.token_hex(4)}")


def held_checkpoint(hold: Path) -> Path:
    """The checkpoint that ``hold`` was made of; training may have deleted it."""
    return hold.parent.parent / hold.name


def holds_of(*output_dirs: Path) -> list[Path]:
    """The holds below folders of checkpoints, oldest first; none where they cannot be read."""
    found: list[tuple[int, Path]] = []
    for output_dir in output_dirs:
        with contextlib.suppress(OSError), os.scandir(output_dir / HOLD_FOLDER) as entries:
            found += [
                (entry.stat().st_mtime_ns, Path(entry.path))
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    return [path for _, path in sorted(found)]


@contextlib.contextmanager
def reading(hold: Path) -> Iterator[bool]:
    """Keep ``hold`` from removal in the block; False if there is none.

    Any number of processes may read at once.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = _lock(hold, fcntl.LOCK_SH)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_hold(hold: Path) -> bool:
    """Remove ``hold`` for good, and the folder of holds with the last one; whether it is gone.

    What a killed training has left of it goes too. It stays while it is read (also by the caller)
    and where it cannot be renamed. A path that is none of a hold is left alone, and counts as gone.
    """
    if hold.parent.name != HOLD_FOLDER:
        return True
    is_gone = set_aside(hold)
    remove_leftovers(hold.parent, drafts=f"{glob.escape(hold.name)}.*" if is_gone else "")
    return is_gone


def set_aside(hold: Path) -> bool:
    """Rename ``hold`` so that it is none any more, which takes no time; whether it is gone.

    ``remove_leftovers`` frees its room.
    """
    try:
        descriptor = _lock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if descriptor is None:
            return True
        try:
            hold.rename(hold.with_name(f"{_GONE}{hold.name}-{secrets.token_hex(4)}"))
        finally:
            os.close(descriptor)
    except OSError:
        return not hold.exists()
    return True


def remove_leftovers(folder: Path, *, drafts: str = "") -> None:
    """Remove what was set aside in a folder of holds, and the folder if nothing is left in it.

    ``drafts`` is a pattern for those to remove too: only while no training saves what they are of.
    """
    patterns = (f"{_GONE}*", f"{_DRAFT}{drafts}")[: 2 if drafts else 1]
    try:
        paths = [path for pattern in patterns for path in folder.glob(pattern)]
    except OSError:
        return
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # rmtree takes no plain file
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock(hold: Path, how: int) -> int | None:
    """A descriptor of ``hold`` with a lock; None if there is no such hold.

    Raises:
        BlockingIOError: with LOCK_NB, another process has the lock.
        OSError: the hold cannot be opened.
    """
    for _ in range(_TRIES):
        try:
            descriptor = os.open(hold, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            _flock(descriptor, how)
            # It may have been set aside, and made again, before the lock was there.
            if os.path.samestat(os.fstat(descriptor), hold.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def _flock(descriptor: int, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks: the reader sees that its files are gone


def _at_least_0(value: _Number) -> _Number:
    if not value >= 0:
        raise ValueError(f"{value} is below 0")
    return value
