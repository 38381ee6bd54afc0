"""Holds saved checkpoints until the archiver has copied them: hard links, out of rotation's way.

Rotation deletes a checkpoint while it is being copied, and callbacks that come after ours still
write into it. So its files are linked in ``on_save``, and once more at the next hook.
"""

from __future__ import annotations

import _thread
import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns
from typing import Any

from lineside.bus.checkpoints.hold import (
    HOLD_FOLDER,
    HoldLimits,
    draft_path,
    held_checkpoint,
    hold_path,
    holds_of,
    remove_leftovers,
    set_aside,
)
from lineside.bus.protocol.event_kinds import CHECKPOINT_HELD
from lineside.emitter.training.checkpoints.folder import checkpoint_step
from lineside.emitter.training.checkpoints.links import measure, mirror, share_a_file
from lineside.emitter.training.publisher import Publisher

_GIBIBYTE = 1 << 30
_BLOCK = 4096  # a file takes up to one more than its size


@dataclass
class _Pending:
    """A checkpoint whose files are linked, and linked once more at the next hook."""

    checkpoint: Path
    step: int
    epoch: float | None
    limits: HoldLimits | None
    """None on ranks that only add their files."""
    why: str | None = None
    """Why there is no hold."""
    replaced: list[dict[str, Any]] = field(default_factory=list)
    """The hold that had its path before, if there was one."""


class CheckpointHolder:
    """Holds the checkpoints of one attempt below ``output_dir``, on one of its ranks.

    Rank 0 makes holds within the limits that ``read_limits`` returns at each save: an archiver may
    come and go while training runs. With None it makes none. The other ranks add their own files to
    rank 0's holds.
    """

    def __init__(
        self, output_dir: Path, read_limits: Callable[[], HoldLimits | None], *, rank: int = 0
    ) -> None:
        self._output_dir = output_dir
        self._read_limits = read_limits
        self._rank = rank
        self._bytes: dict[Path, int] = {}
        self._steps: dict[Path, int] = {}
        self._leftovers: set[Path] = set()  # folders in which something is set aside
        self._pending: _Pending | None = None
        if rank == 0:
            leftovers = output_dir / HOLD_FOLDER
            with contextlib.suppress(OSError):
                if any(leftovers.glob(".*")):
                    _remove_in_background(leftovers, drafts="*")

    def hold(self, checkpoint: Path, step: int, epoch: float | None) -> None:
        """Hold the files of ``checkpoint``, a folder or a file. Raises no OSError."""
        hold = hold_path(checkpoint)
        if self._rank:
            self._pending = _Pending(checkpoint, step, epoch, None)
            _add(checkpoint, hold)
        elif (limits := self._read_limits()) is not None:
            self._pending = pending = _Pending(checkpoint, step, epoch, limits)
            try:
                pending.replaced = self._replace(checkpoint, hold, step)
                pending.why = _make_hold(checkpoint, hold)
            except OSError as error:
                pending.why = _give_up(hold, error)
            self._steps[hold] = step

    def finish(self, publisher: Publisher) -> None:
        """Link what was written since ``hold``; rank 0 then publishes ``checkpoint_held``.

        Rank 0 also gives up the oldest holds above the limits.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        checkpoint, hold = pending.checkpoint, hold_path(pending.checkpoint)
        if pending.limits is None:
            _add(checkpoint, hold)
            return
        why = pending.why or _look_again(checkpoint, hold)
        size, files = measure(checkpoint if why else hold)
        self._bytes[hold] = size
        evicted = pending.replaced
        with contextlib.suppress(OSError):
            evicted += self._evict(checkpoint, size + files * _BLOCK, pending.limits)
        data = {
            "checkpoint": str(checkpoint),
            "hold": None if why else str(hold),
            "why": why,
            "bytes": size,
            "files": files,
            "evicted": evicted,
        }
        publisher.emit(CHECKPOINT_HELD, pending.step, pending.epoch, 0, data, monotonic_ns())
        while self._leftovers:
            _remove_in_background(self._leftovers.pop())

    def _replace(self, checkpoint: Path, hold: Path, step: int) -> list[dict[str, Any]]:
        """Give up the hold of another checkpoint with this path; its description.

        A script may save all of its checkpoints at one path. Of one step the newest save counts,
        and there is nothing to describe.
        """
        if not hold.is_dir() or share_a_file(hold, checkpoint) or not set_aside(hold):
            return []
        self._leftovers.add(hold.parent)
        evicted = self._evicted(hold, "a newer checkpoint has its path")
        return [] if evicted["step"] in (None, step) else [evicted]

    def _evict(self, saved: Path, room: int, limits: HoldLimits) -> list[dict[str, Any]]:
        """Give up the oldest holds, but none that is read, and describe them.

        Those above ``limits``, and those without which the disk has no ``room`` for the next
        checkpoint, in bytes: the next save must not fail for a hold.
        """
        folders = [saved.parent]
        if saved.parent.parent == self._output_dir:  # of one hyperparameter trial
            folders = [path.parent for path in self._output_dir.glob(f"*/{HOLD_FOLDER}")]
        held = [hold for hold in holds_of(*folders) if not held_checkpoint(hold).exists()]
        most_bytes = limits.max_held_gb * _GIBIBYTE
        lacking = room - shutil.disk_usage(saved.parent).free
        sizes = {hold: self._size(hold) for hold in held} if most_bytes or lacking > 0 else {}
        count, total = len(held), sum(sizes.values())
        evicted = []
        for hold in held:
            if count > limits.max_held:
                why = f"{limits.max_held} newer ones were waiting to be archived"
            elif most_bytes and total > most_bytes:
                why = f"more than {limits.max_held_gb:g} GiB were waiting to be archived"
            elif lacking > 0:
                why = "the disk had no room for the next one"
            else:
                break
            if set_aside(hold):
                freed = sizes.get(hold, 0)
                count, total, lacking = count - 1, total - freed, lacking - freed
                self._leftovers.add(hold.parent)
                evicted.append(self._evicted(hold, why))
        return evicted

    def _evicted(self, hold: Path, why: str) -> dict[str, Any]:
        step = self._steps.get(hold, checkpoint_step(hold.name))
        return {"checkpoint": str(held_checkpoint(hold)), "step": step, "why": why}

    def _size(self, hold: Path) -> int:
        if hold not in self._bytes:
            self._bytes[hold], _ = measure(hold)
        return self._bytes[hold]


def _make_hold(checkpoint: Path, hold: Path) -> str | None:
    """Why there can be no hold; None once there is one.

    It gets its name with all of its files: what a kill leaves before is none.
    """
    if not checkpoint.exists():
        return f"there is no {checkpoint}"
    if hold.is_dir():  # of an earlier save of the step, or still read
        mirror(checkpoint, hold, prune=True)
        return None
    draft = draft_path(hold)
    try:
        _make_folder(draft)
        mirror(checkpoint, draft, prune=False)
        draft.rename(hold)
    except OSError:
        set_aside(draft)
        raise
    return None


def _look_again(checkpoint: Path, hold: Path) -> str | None:
    """Why there is no hold any more; None if there is one."""
    try:
        mirror(checkpoint, hold, prune=True)
    except FileNotFoundError as error:
        if not hold.is_dir():
            return f"{hold} was removed"
        if checkpoint.exists():
            return _give_up(hold, error)
    except OSError as error:
        return _give_up(hold, error)
    return None


def _give_up(hold: Path, error: OSError) -> str:
    set_aside(hold)
    _remove_in_background(hold.parent)
    return f"its files cannot be linked into {hold.parent}: {error.strerror or error}"


def _add(checkpoint: Path, hold: Path) -> None:
    # Rank 0 may not have made it yet: then there is none, or that of an earlier save.
    if share_a_file(hold, checkpoint):
        with contextlib.suppress(OSError):
            mirror(checkpoint, hold, prune=False)


def _make_folder(draft: Path) -> None:
    try:
        draft.mkdir()
    except FileNotFoundError:
        # The archiver removes an empty folder of holds, so it gets its name with the draft in it.
        folder = draft.parent
        made = folder.with_name(f"{folder.name}{draft.name}")
        made.mkdir()
        try:
            (made / draft.name).mkdir()
            made.rename(folder)
        except OSError:  # another process has made one
            shutil.rmtree(made, ignore_errors=True)
            draft.mkdir()


def _remove_in_background(folder: Path, *, drafts: str = "") -> None:
    """Free the room of what was set aside, in a thread for which the process's end does not wait.

    What is left then is removed by the next training, or by the archiver.
    """
    # ``Thread.start`` returns when the thread runs, which takes milliseconds.
    with contextlib.suppress(RuntimeError):  # no thread can be started
        _thread.start_new_thread(remove_leftovers, (folder,), {"drafts": drafts})
