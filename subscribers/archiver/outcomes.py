"""Notes in the state of a run how tasks went, and when those that failed are tried again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lineside.bus.protocol.checkpoints import (
    ARCHIVED,
    CORRUPT,
    DELETE,
    DELETED,
    EVICTED,
    FAILED,
    VERIFIED,
    VERIFY,
    WAITING,
)
from lineside.store.archive.errors import (
    ArchiveCorrupt,
    ArchiveDenied,
    ArchiveStopped,
    ArchiveUnavailable,
    Fault,
)
from lineside.store.archive.keys import ManifestKey
from lineside.store.archive.manifest import Manifest
from lineside.subscribers.archiver.completeness import wait_for_files
from lineside.subscribers.archiver.entry import Entry
from lineside.subscribers.archiver.retries import (
    DENIED_RETRY,
    SOURCE_RETRY,
    UNAVAILABLE_RETRY,
    retry_delay,
)
from lineside.subscribers.archiver.run_archive import RunArchive
from lineside.subscribers.archiver.source import SourceGone, Stamp
from lineside.subscribers.archiver.tasks import (
    CollectGarbage,
    Copy,
    Delete,
    EntryId,
    ListArchive,
    Result,
    Verify,
)

log = logging.getLogger("lineside")

GARBAGE_RETRY_SECONDS = 3600.0
MAX_GARBAGE_SECONDS = 600.0
"""From one collection of garbage to the next at most; it is a second for each checkpoint."""
LIST_SECONDS = 3600.0
"""From one comparison with the archive to the next."""
MAX_REPAIRS = 3
"""Times that a copy with faults is made anew."""
_SAME_SECONDS = 0.001


@dataclass
class ArchiveStatus:
    """Why the archive cannot be used; empty while it can. All runs share it."""

    problem: str = ""


class Outcomes:
    """Applies results to the checkpoints of one run. What it holds is gone with the process."""

    def __init__(self, status: ArchiveStatus) -> None:
        self.status = status
        self.retry_at = 0.0
        """When the archive is tried again."""
        self.garbage_at = 0.0
        """When garbage may be collected again."""
        self.list_at = 0.0
        """When the archive is compared with the state again."""
        self.stamps: dict[EntryId, Stamp | None] = {}
        """The holds as they were read, of what was copied."""
        self._tries = 0

    @property
    def is_listed(self) -> bool:
        """Whether the archive was compared with the state since the process began."""
        return self.list_at > 0

    def make_due(self) -> None:
        """Have nothing wait for its time."""
        self.retry_at = self.garbage_at = 0.0
        self.list_at = min(self.list_at, 1.0)  # what was listed stays so

    def apply(self, archive: RunArchive, result: Result, now: float) -> None:
        """Note how a task went."""
        self._note_archive(result, now)
        task = result.task
        if isinstance(task, Copy):
            self._after_copy(archive, task, result, now)
        elif isinstance(task, Delete):
            self._after_delete(archive, task, result)
        elif isinstance(task, Verify):
            self._after_verify(archive, task, result)
        elif isinstance(task, ListArchive):
            self._after_list(archive, task, result, now)
        elif isinstance(task, CollectGarbage):
            self._after_garbage(archive, result, now)

    def note_problem(self, archive: RunArchive, now: float) -> None:
        """Note with what waits for its turn why the archive cannot be used, until it can.

        The newest is tried first; the others have no event for each try.
        """
        waiting = [one for one in archive.entries.all if one.is_open and one.is_whole]
        newest = max(waiting, key=lambda one: one.order, default=None)
        for entry in waiting:
            if entry.state != WAITING:
                continue
            if self.status.problem:
                if entry is newest or entry.why is None:
                    entry.retry_at = self.retry_at or None
                elif entry.retry_at is not None and entry.retry_at <= now:
                    entry.retry_at = None
                entry.why = self.status.problem
            elif entry.why is not None:
                entry.why = entry.retry_at = None

    def _note_archive(self, result: Result, now: float) -> None:
        error = result.error
        if is_archive_fault(result):
            self._tries += 1
            delays = DENIED_RETRY if isinstance(error, ArchiveDenied) else UNAVAILABLE_RETRY
            self.retry_at = now + retry_delay(self._tries, delays)
            if self.status.problem != str(error):
                log.warning("archiver: %s", error)
            self.status.problem = str(error)
        elif error is None:
            self._tries, self.retry_at, self.status.problem = 0, 0.0, ""

    def _after_copy(self, archive: RunArchive, task: Copy, result: Result, now: float) -> None:
        entry = archive.entries.find(*task.entry)
        if entry is None or entry.state == DELETED:
            if result.key is not None:
                archive.stale_keys.append(str(result.key))
            return
        if entry.saves != task.saves:  # saved again meanwhile; the earlier save is archived
            self._replace_key(archive, entry, result.key)
            return
        if result.key is not None and result.written is not None:
            self._note_copied(archive, entry, result, now)
        elif entry.is_open:
            self._note_not_copied(archive, entry, result, now)

    def _note_copied(self, archive: RunArchive, entry: Entry, result: Result, now: float) -> None:
        self._replace_key(archive, entry, result.key)
        if result.faults and entry.tries < MAX_REPAIRS:
            archive.stale_keys.append(str(entry.key))
            archive.has_garbage, entry.key = True, None
            self._retry(entry, f"read back after copying: {_faults_text(result.faults)}", now)
            return
        written = result.written
        entry.state, entry.why = ARCHIVED, None
        entry.retry_at, entry.tries, entry.is_begun = None, 0, False
        if written is not None:
            entry.bytes = entry.done = written.bytes
            entry.sent, entry.stored, entry.files = written.sent, written.stored, result.files
        if result.faults is not None:
            _note_faults(entry, result.faults)
        if result.left_out and entry.state != CORRUPT:
            left_out = (f"{path} is left out: {why}" for path, why in result.left_out.items())
            entry.why = "; ".join(left_out)
        self.stamps[entry.id] = result.stamp

    def _note_not_copied(
        self, archive: RunArchive, entry: Entry, result: Result, now: float
    ) -> None:
        error = result.error
        entry.is_begun = True
        if result.missing:
            wait_for_files(archive, entry, list(result.missing), now)
        elif isinstance(error, SourceGone):
            entry.give_up(EVICTED, str(error))
            archive.has_garbage = True
        elif isinstance(error, ArchiveStopped):
            entry.state = WAITING
        elif isinstance(error, (ArchiveUnavailable, ArchiveDenied)):
            entry.state, entry.why, entry.retry_at = FAILED, str(error), self.retry_at
        elif error is not None:
            self._retry(entry, str(error), now)
            entry.is_whole = False  # a file may be gone, or all of them
            entry.ready_at = entry.retry_at or now

    def _retry(self, entry: Entry, why: str, now: float) -> None:
        entry.tries += 1
        entry.state, entry.why = FAILED, why
        entry.retry_at = now + retry_delay(entry.tries, SOURCE_RETRY)

    def _replace_key(self, archive: RunArchive, entry: Entry, key: ManifestKey | None) -> None:
        if key is None:
            return
        if entry.key is not None and entry.key != str(key):
            archive.stale_keys.append(entry.key)
        entry.key = str(key)

    def _after_delete(self, archive: RunArchive, task: Delete, result: Result) -> None:
        if result.error is not None:
            return
        key, archive.has_garbage = str(task.key), True
        archive.state["stale_keys"] = [one for one in archive.stale_keys if one != key]
        for entry in archive.entries.all:
            if entry.key != key:
                continue
            entry.key = None
            request = _request(archive, entry, DELETE)
            if request is not None:
                entry.give_up(DELETED, f"deleted by {request.get('issuer')}")
                archive.answer(request, entry)
            elif not entry.is_open:
                entry.give_up(DELETED, "the policy keeps others")

    def _after_verify(self, archive: RunArchive, task: Verify, result: Result) -> None:
        entry = archive.entries.find(*task.entry)
        if result.error is not None or entry is None or entry.key != str(task.key):
            return
        if not entry.is_open:
            _note_faults(entry, result.faults or ())
        request = _request(archive, entry, VERIFY)
        if request is not None:
            archive.answer(request, entry)

    def _after_garbage(self, archive: RunArchive, result: Result, now: float) -> None:
        if result.error is None:
            archive.has_garbage = False
            manifests = sum(entry.key is not None for entry in archive.entries.all)
            self.garbage_at = now + min(manifests, MAX_GARBAGE_SECONDS)  # it reads each of them
            return
        self.garbage_at = now + GARBAGE_RETRY_SECONDS
        if isinstance(result.error, ArchiveCorrupt):
            log.warning("archiver: run %s: nothing is freed: %s", archive.run.id, result.error)
            damaged = {fault.key: fault for fault in result.error.faults}
            if not damaged.keys() & {entry.key for entry in archive.entries.all}:
                archive.report_once(
                    f"{result.error}; until this object is removed from the archive, or a newer "
                    "Lineside reads it, nothing that is deleted there frees any room"
                )
            for entry in archive.entries.all:
                if entry.key in damaged and not entry.is_open:
                    _note_faults(entry, [damaged[entry.key]])
            archive.has_garbage = False  # until the damaged one is deleted

    def _after_list(
        self, archive: RunArchive, task: ListArchive, result: Result, now: float
    ) -> None:
        if result.error is not None:
            return
        self.list_at = now + LIST_SECONDS
        found = {str(key) for key in result.keys}
        for entry in archive.entries.all:
            if entry.key in task.known and entry.key not in found:
                entry.key = None
                if not entry.is_open:
                    entry.give_up(DELETED, "it is not in the archive any more")
        for key, manifest in result.unknown:
            self._adopt(archive, key, manifest)

    def _adopt(self, archive: RunArchive, key: ManifestKey, manifest: Manifest) -> None:
        """Take over a manifest that the state does not know: it was lost, or not kept in time."""
        facts = manifest.facts
        entry = archive.entries.find(facts.attempt, facts.step, facts.checkpoint)
        if entry is None:
            metrics = {name: float(value) for name, value in facts.metrics.items()}
            entry = archive.entries.add(
                Entry(
                    *(facts.attempt, facts.step, facts.checkpoint, facts.saved_at),
                    epoch=facts.epoch,
                    metrics=metrics,
                    is_found=True,
                )
            )
        elif abs(entry.time - facts.saved_at) > _SAME_SECONDS:  # an earlier save of it
            if entry.key is None and entry.is_open:
                entry.key = str(key)
            else:
                archive.stale_keys.append(str(key))
            return
        elif entry.key is not None:
            archive.stale_keys.append(str(key))
            return
        entry.key, entry.is_whole = str(key), True
        entry.state, entry.why, entry.retry_at, entry.tries = ARCHIVED, None, None, 0
        entry.bytes = entry.done = manifest.size
        entry.stored = sum(part.size for part in manifest.parts())
        entry.files, entry.is_begun = len(manifest.files), False


def is_archive_fault(result: Result) -> bool:
    """Whether a task failed because of the archive, so that others would fail as well."""
    if isinstance(result.error, (ArchiveUnavailable, ArchiveDenied)):
        return True
    is_of_source = isinstance(result.task, Copy) or isinstance(
        result.error, (ArchiveStopped, ArchiveCorrupt)
    )
    return result.error is not None and not is_of_source


def _request(archive: RunArchive, entry: Entry, op: str) -> Mapping[str, Any] | None:
    """The request to do ``op`` to ``entry``, if there is one."""
    for request in archive.requests:
        place = (request.get("attempt"), request.get("step"), request.get("checkpoint"))
        if request.get("op") == op and place == entry.id:
            return request
    return None


def _note_faults(entry: Entry, faults: Sequence[Fault]) -> None:
    entry.state = CORRUPT if faults else VERIFIED
    entry.why = _faults_text(faults) if faults else None


def _faults_text(faults: Sequence[Fault]) -> str:
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(str(fault) for fault in faults[:3]) + more
