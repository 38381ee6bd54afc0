"""Decides what is to be done next for a run: what is kept, copied, deleted, read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lineside.bus.protocol.checkpoints import (
    COPYING,
    DELETE,
    DELETED,
    IN_ARCHIVE,
    PIN,
    SKIPPED,
    UNPIN,
    VERIFY,
)
from lineside.store.archive.keys import ManifestKey
from lineside.subscribers.archiver.entry import Entry
from lineside.subscribers.archiver.outcomes import Outcomes
from lineside.subscribers.archiver.policy import KeepOptions, decide
from lineside.subscribers.archiver.run_archive import RunArchive
from lineside.subscribers.archiver.tasks import (
    CollectGarbage,
    Copy,
    Delete,
    ListArchive,
    Task,
    Verify,
)
from lineside.subscribers.archiver.worker import Worker

FOUND = "found"  # in the archive, and not in the state: a person decides
_FEW = 3  # archived checkpoints without a metric that may yet come


def apply_policy(archive: RunArchive, options: KeepOptions, worker: Worker) -> None:
    """Mark what is kept, and why; what waits and is not kept is skipped."""
    entries = [e for e in archive.entries.all if e.is_open or e.key is not None]
    known = [entry.known(is_resumed_from=archive.is_resumed_from(entry)) for entry in entries]
    by_known = {id(one): entry for one, entry in zip(known, entries, strict=True)}
    for entry in archive.entries.all:
        entry.keep, entry.best, entry.last = [], False, False
    for decision in decide(known, archive.keep_options(options)):
        entry = by_known[id(decision.checkpoint)]
        found = [FOUND] if entry.is_found else []
        entry.keep, entry.best = [*decision.keep, *found], decision.is_best
        entry.last = decision.is_last
        is_waiting = entry.is_open and entry.is_whole and not _is_copied(worker, entry)
        if not entry.keep and is_waiting:
            entry.give_up(SKIPPED, "the policy keeps others")
            archive.has_garbage |= entry.is_begun


def report_unknown_metrics(archive: RunArchive, options: KeepOptions) -> None:
    """Report once that none can be the best, because no checkpoint has a metric of ``options``."""
    known = [entry.metrics for entry in archive.entries.all if entry.key is not None]
    needs_metrics = options.keep_best > 0 or options.save_best_only
    if not needs_metrics or len(known) < _FEW:
        return
    unknown = [name for name in options.monitor if not any(name in one for one in known)]
    if unknown:
        archive.report_once(
            f"no checkpoint has the metric {', '.join(unknown)} of archive.monitor, so all are "
            "kept until one has: expected the name of a metric that is evaluated or logged at the "
            "step of a checkpoint"
        )


def take_requests(archive: RunArchive, worker: Worker, *, is_listed: bool) -> None:
    """Answer the requests for which nothing has to be done in the archive."""
    for request in list(archive.requests):
        entry = _requested(archive, request)
        if entry is None:
            if is_listed:  # else the archive may have it
                unknown = Entry(*_place(request), time=0.0, state=SKIPPED)
                unknown.why = "the archiver does not know this checkpoint"
                archive.answer(request, unknown, unknown.why)
            continue
        op, is_archived = request.get("op"), entry.key is not None and entry.state in IN_ARCHIVE
        if op in (PIN, UNPIN):
            if not is_archived and not entry.is_open:
                archive.answer(request, entry, f"it is not in the archive: {entry.why}")
                continue
            entry.pinned, entry.is_found = op == PIN, False
            archive.answer(request, entry)
        elif op == DELETE and entry.pinned:
            archive.answer(request, entry, "it is pinned; unpin it first")
        elif op == DELETE and entry.is_open:
            worker.cancel(entry.id)
            if entry.key is not None:
                archive.stale_keys.append(entry.key)
            entry.key, archive.has_garbage = None, True
            entry.give_up(DELETED, f"deleted by {request.get('issuer')} before it was archived")
            archive.answer(request, entry)
        elif not is_archived:
            archive.answer(request, entry, f"it is not in the archive: {entry.why}")


def tasks(archive: RunArchive, outcomes: Outcomes, now: float) -> list[Task]:
    """What is to be done, in this order."""
    if now < outcomes.retry_at:
        return []
    return list(_tasks(archive, outcomes, now))


def _tasks(archive: RunArchive, outcomes: Outcomes, now: float) -> Iterator[Task]:
    if not archive.has_work:
        return
    if now >= outcomes.list_at:
        known = {entry.key for entry in archive.entries.all if entry.key}
        known |= set(archive.stale_keys)
        yield ListArchive(archive.run.id, frozenset(known), archive.entries.room)
        if not outcomes.is_listed:
            return  # what it finds need not be copied
    for text in archive.stale_keys:
        if key := ManifestKey.parse(text):
            yield Delete(None, key)
    yield from _removals(archive)
    for request in archive.requests:
        entry = _requested(archive, request)
        if entry is not None and (key := _key(entry)):
            if request.get("op") == DELETE:
                yield Delete(entry.id, key)
            elif request.get("op") == VERIFY:
                yield Verify(entry.id, key)
    # What was sent for a copy that was interrupted is garbage until it is whole.
    is_begun = any(entry.is_open and entry.is_begun for entry in archive.entries.all)
    is_safe = not is_begun or bool(outcomes.status.problem)  # which a full disk may be
    if archive.has_garbage and is_safe and now >= outcomes.garbage_at:
        yield CollectGarbage(archive.run.id)
    for entry in sorted(archive.entries.all, key=lambda one: one.order, reverse=True):
        is_due = entry.retry_at is None or entry.retry_at <= now
        if entry.is_open and entry.is_whole and is_due:
            yield Copy(entry.id, entry.saves, entry.hold, archive.facts(entry))


def _removals(archive: RunArchive) -> Iterator[Task]:
    """What is in the archive and not kept by the policy."""
    for entry in archive.entries.all:
        if entry.is_to_be_deleted and (key := _key(entry)):
            yield Delete(entry.id, key)


def _key(entry: Entry) -> ManifestKey | None:
    return ManifestKey.parse(entry.key) if entry.key else None


def _is_copied(worker: Worker, entry: Entry) -> bool:
    copying = worker.copying
    return entry.state == COPYING or (copying is not None and copying.task.entry == entry.id)


def _place(request: Mapping[str, Any]) -> tuple[str, int, str]:
    return (
        str(request.get("attempt")),
        request["step"] if isinstance(request.get("step"), int) else 0,
        str(request.get("checkpoint")),
    )


def _requested(archive: RunArchive, request: Mapping[str, Any]) -> Entry | None:
    return archive.entries.find(*_place(request))
