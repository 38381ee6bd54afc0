"""Makes a folder the mirror of another one by hard links: no file is read or copied."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from lineside.bus.checkpoints.hold import draft_path

_TRIES = 3


def mirror(source: Path, target: Path, *, prune: bool) -> None:
    """Link what is in ``source``, a folder or a file, into the folder ``target``.

    Links to files that ``source`` has replaced are replaced, and with ``prune`` what it no longer
    has is removed. Several processes may do this at once. A file that vanishes meanwhile is left
    out.

    Raises:
        FileNotFoundError: ``source`` or ``target`` is not there, also if it goes meanwhile.
        OSError: a link cannot be made; ``target`` then has a part of them.
    """
    draft = draft_path(target)
    if source.is_dir():
        _mirror_folder(str(source), str(target), draft, prune)
    else:
        _link_anew(str(source), target / source.name, draft)


def measure(path: Path) -> tuple[int, int]:
    """The bytes and the number of the files in a folder, or of a file; none if it is not there."""
    if not path.is_dir():
        return (path.stat().st_size, 1) if path.is_file() else (0, 0)
    total = files = 0
    folders = [str(path)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
                    files += 1
    return total, files


def share_a_file(folder: Path, other: Path) -> bool:
    """Whether a file in ``folder`` is linked at the same place in ``other``, or ``other`` is it."""
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            with contextlib.suppress(OSError):
                twin = other / file.relative_to(folder) if other.is_dir() else other
                if os.path.samestat(file.lstat(), twin.lstat()):
                    return True
    return False


def _mirror_folder(source: str, target: str, draft: Path, prune: bool) -> None:
    # ``target`` first: what only it has is then really gone, and not a file that came meanwhile.
    with os.scandir(target) as entries:
        have = {entry.name: entry for entry in entries}
    with os.scandir(source) as entries:
        for entry in entries:
            linked = have.pop(entry.name, None)
            place = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if linked is None or not linked.is_dir(follow_symlinks=False):
                    _make_folder(Path(place))
                with contextlib.suppress(FileNotFoundError):
                    _mirror_folder(entry.path, place, draft, prune)
            elif linked is None:
                _link(entry.path, place)
            elif not _is_same(entry, linked):
                _link_anew(entry.path, Path(place), draft)
    if prune:
        for linked in have.values():
            _remove(Path(linked.path))


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place, follow_symlinks=False)
    except FileExistsError:
        pass  # by another rank
    except FileNotFoundError:
        if os.path.lexists(source):
            raise


def _link_anew(source: str, place: Path, draft: Path) -> None:
    """Link over what is at ``place``, so that a reader finds the one or the other there."""
    for attempt in range(_TRIES):
        try:
            os.link(source, draft, follow_symlinks=False)
            if place.is_dir() and not place.is_symlink():
                _remove(place)
            draft.replace(place)
            break
        except FileNotFoundError:
            if not os.path.lexists(source):
                break
            if attempt == _TRIES - 1:  # the draft is not taken for a leftover each time
                raise
        finally:
            # Of two links to one file, ``replace`` leaves both.
            with contextlib.suppress(OSError):
                draft.unlink()


def _make_folder(place: Path) -> None:
    try:
        place.mkdir()
    except FileExistsError:
        if not place.is_dir():
            place.unlink()
            place.mkdir()


def _is_same(entry: os.DirEntry[str], linked: os.DirEntry[str]) -> bool:
    try:
        return os.path.samestat(
            entry.stat(follow_symlinks=False), linked.stat(follow_symlinks=False)
        )
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
