"""Waits until the files of all ranks are in a checkpoint: before that it is not copied."""

from __future__ import annotations

from pathlib import Path

from lineside.bus.checkpoints.hold import hold_path
from lineside.bus.protocol.checkpoints import EVICTED, FAILED, INCOMPLETE, WAITING
from lineside.subscribers.archiver.entry import Entry
from lineside.subscribers.archiver.retries import SOURCE_RETRY, retry_delay
from lineside.subscribers.archiver.run_archive import RunArchive
from lineside.subscribers.archiver.source import SourceGone, find_missing, source_of

WHOLE_SECONDS, ENDED_WHOLE_SECONDS = 600.0, 30.0
"""How long files may be missing while the attempt runs, and after its end."""
_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 15.0  # between two looks
_MAX_NAMED = 3


def look_for_files(archive: RunArchive, now: float) -> None:
    """Look into the checkpoints that wait, and mark those that are whole, gone or given up."""
    for entry in archive.entries.all:
        if entry.is_open and not entry.is_whole and entry.ready_at <= now:
            _look(archive, entry, now)


def wait_for_files(archive: RunArchive, entry: Entry, missing: list[str], now: float) -> None:
    """Have ``entry`` looked at again, or give it up if its files have been ``missing`` for long."""
    entry.is_whole = False
    since = entry.incomplete_since if entry.incomplete_since is not None else now
    named = ", ".join(missing[:_MAX_NAMED])
    if len(missing) > _MAX_NAMED:
        named += f" and {len(missing) - _MAX_NAMED} more"
    is_over = archive.is_over(entry.attempt)
    if now - since > (ENDED_WHOLE_SECONDS if is_over else WHOLE_SECONDS):
        ended = "the training ended" if is_over else f"{now - since:.0f} s have passed"
        entry.give_up(INCOMPLETE, f"{ended} and files are missing or cut short: {named}")
        return
    entry.state, entry.why, entry.retry_at = WAITING, f"waits for {named}", None
    entry.incomplete_since = since
    entry.ready_at = now + min(_FIRST_SECONDS + (now - since) / 10, _LONGEST_SECONDS)


def _look(archive: RunArchive, entry: Entry, now: float) -> None:
    if not entry.is_held and entry.hold is None:
        entry.hold = str(hold_path(Path(entry.path)))  # also if a killed training made it in part
    world = archive.attempt(entry.attempt)["world"]
    try:
        source = source_of(entry.path, entry.hold)
        missing = find_missing(source, archive.run.id, world)
    except SourceGone as error:
        entry.give_up(EVICTED, str(error))
    except OSError as error:
        entry.tries += 1
        entry.retry_at = entry.ready_at = now + retry_delay(entry.tries, SOURCE_RETRY)
        entry.state, entry.why = FAILED, f"{error.filename}: {error.strerror}"
    else:
        if missing:
            wait_for_files(archive, entry, missing, now)
        else:
            entry.is_whole, entry.incomplete_since, entry.why = True, None, None
            entry.state, entry.retry_at = WAITING, None
