"""Archives the checkpoints of a run: handlers queue them, ``tick`` has the work done and noted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from lineside.bus.checkpoints.hold import remove_hold
from lineside.bus.protocol.checkpoints import ARCHIVER, COPYING, DELETED, EVICTED, WAITING
from lineside.bus.protocol.event_kinds import CHECKPOINT_PROGRESS
from lineside.bus.protocol.events import RANK_0
from lineside.subscribers import (
    CheckpointHeldEvent,
    CheckpointRequestEvent,
    EvaluateEvent,
    LogEvent,
    ProcessEvent,
    RunContext,
    RunEndEvent,
    RunEvent,
    RunStartEvent,
    SaveEvent,
    Subscriber,
)
from lineside.subscribers.archiver.completeness import look_for_files
from lineside.subscribers.archiver.entry import Entry, numbers
from lineside.subscribers.archiver.outcomes import ArchiveStatus, Outcomes
from lineside.subscribers.archiver.planning import (
    apply_policy,
    report_unknown_metrics,
    take_requests,
    tasks,
)
from lineside.subscribers.archiver.run_archive import RunArchive
from lineside.subscribers.archiver.slots import Slots
from lineside.subscribers.archiver.source import find_hold, release
from lineside.subscribers.archiver.tasks import ArchiveWork
from lineside.subscribers.archiver.worker import Worker

UNHELD_SECONDS, HELD_SECONDS = 10.0, 60.0
"""How long training has to pass on a checkpoint of which it makes no hold, or has made one."""
ENDED_SECONDS = 2.0
"""The same after the end of its processes."""
CLOCK_SECONDS = 5.0
"""A clock that was set back by more has all be tried again that waits for a time."""
PROGRESS_SECONDS = 5.0
"""From one event about a copy in progress to the next."""


class Archiver(Subscriber):
    """Copies the checkpoints of one run to the archive of ``work``, and keeps some of them.

    All runs share ``slots`` and ``status``. ``start`` starts the thread in which the work is done.
    """

    name: ClassVar[str] = ARCHIVER

    def __init__(
        self,
        work: ArchiveWork,
        slots: Slots,
        status: ArchiveStatus,
        *,
        clock: Callable[[], float] = time.time,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._work = work
        self._slots = slots
        self._outcomes = Outcomes(status)
        self._clock = clock
        self._start = start
        self._worker: Worker | None = None
        self._archive: RunArchive | None = None
        self._decided = -1  # the changes that the policy has seen
        self._progress_at = self._ticked_at = 0.0
        self._logged: tuple[tuple[str, int], dict[str, float]] = (("", -1), {})

    def on_run_start(self, run: RunContext, event: RunStartEvent) -> None:
        archive = self._open(run)
        attempt = archive.attempt(event.attempt)
        if event.producer not in attempt["open"]:
            attempt["open"].append(event.producer)
        if event.producer == RANK_0:
            world = event.facts.get("world_size")
            attempt["world"] = world if isinstance(world, int) and world > 0 else 1
            archive.note_resumed(event.facts)
        archive.store()

    def on_run_end(self, run: RunContext, event: RunEndEvent) -> None:
        self._note_end(run, event.producer, event.attempt)

    def on_process_lost(self, run: RunContext, event: ProcessEvent) -> None:
        self._note_end(run, event.data.get("producer"), event.data.get("attempt"))

    def on_log(self, _run: RunContext, event: LogEvent) -> None:
        place, logged = self._logged  # in memory: the state is not written for each log
        before = logged if place == (event.attempt, event.step) else {}
        self._logged = (event.attempt, event.step), {**before, **numbers(event.logs)}

    def on_evaluate(self, run: RunContext, event: EvaluateEvent) -> None:
        archive, metrics = self._open(run), numbers(event.metrics)
        archive.state["evaluated"] = [event.attempt, event.step, metrics]
        for entry in archive.entries.all:  # an evaluation may come after the save
            if (entry.attempt, entry.step) == (event.attempt, event.step):
                entry.metrics = numbers({**metrics, **entry.metrics, **metrics})
        archive.store()

    def on_save(self, run: RunContext, event: SaveEvent) -> None:
        if event.checkpoint and self._work.options.runs.matches(run):
            archive = self._open(run)
            self._note_save(archive, event, event.checkpoint, numbers(event.metrics))
            archive.store()

    def on_checkpoint_held(self, run: RunContext, event: CheckpointHeldEvent) -> None:
        if not self._work.options.runs.matches(run):
            if event.hold:
                remove_hold(Path(event.hold))
            return
        archive = self._open(run)
        entry = archive.entries.find(event.attempt, event.step, event.checkpoint)
        if entry is None or not (entry.is_open or entry.state == DELETED):
            entry = self._note_save(archive, event, event.checkpoint, {})
        entry.is_held, entry.hold, entry.ready_at = True, event.hold or None, 0.0
        if entry.is_open:
            entry.why = event.why or None
        entry.bytes, entry.files = _count(event, "bytes"), _count(event, "files")
        for evicted in event.evicted:
            for other in archive.entries.at_path(str(evicted.get("checkpoint"))):
                if other is not entry and other.is_open and other.state != COPYING:
                    other.give_up(EVICTED, str(evicted.get("why") or "its hold made room"))
                    other.hold = None
        archive.store()

    def on_checkpoint_request(self, run: RunContext, event: CheckpointRequestEvent) -> None:
        archive = self._open(run)
        archive.requests.append(dict(event.data))
        archive.store()

    def tick(self, run: RunContext, now: float) -> None:
        if not run.stays:
            return
        archive = self._open(run)
        worker = self._worker or self._begin(archive)
        if now < self._ticked_at - CLOCK_SECONDS:
            self._outcomes.make_due()
            self._make_due(archive)
        self._ticked_at = now
        for result in worker.collect():
            self._outcomes.apply(archive, result, now)
        look_for_files(archive, now)
        take_requests(archive, worker, is_listed=self._outcomes.is_listed)
        archive.store()
        if self._decided != archive.changes:
            apply_policy(archive, self._work.options.keep, worker)
            archive.store()
            self._decided = archive.changes
            report_unknown_metrics(archive, self._work.options.keep)
        run.save()  # before anything is removed
        self._release(archive)
        self._outcomes.note_problem(archive, now)
        worker.plan(tasks(archive, self._outcomes, now))
        self._note_progress(archive, worker, now)
        archive.store()

    def close(self, _run: RunContext) -> None:
        if self._worker is not None:
            self._worker.stop()

    def _open(self, run: RunContext) -> RunArchive:
        if self._archive is None or not self._archive.is_current:
            self._archive = RunArchive(run, self._work.archive.url)
        return self._archive

    def _begin(self, archive: RunArchive) -> Worker:
        """The worker; what another process was copying, or had to wait for, is due at once."""
        for entry in archive.entries.all:
            if entry.is_open:
                entry.is_begun |= entry.state == COPYING
        self._make_due(archive)
        self._worker = Worker(archive.run.id, self._work, self._slots, self._start)
        return self._worker

    def _make_due(self, archive: RunArchive) -> None:
        """Have nothing wait for a time that may never come: the clock may have been set back."""
        now = self._clock()
        for entry in archive.entries.all:
            if entry.is_open:
                entry.state, entry.retry_at = WAITING, None
                entry.ready_at = min(entry.ready_at, now + HELD_SECONDS)
                if entry.incomplete_since is not None:
                    entry.incomplete_since = min(entry.incomplete_since, now)
        self._progress_at = 0.0

    def _note_save(
        self, archive: RunArchive, event: RunEvent, path: str, metrics: dict[str, float]
    ) -> Entry:
        place = (event.attempt, event.step)
        for other in archive.entries.at_path(path):
            self._cancel(other)
            if other.id != (*place, path):
                other.hold = None  # the links are those of the new one
                if other.is_open:
                    why = f"attempt {event.attempt} saved there before it was archived"
                    other.give_up(EVICTED, why)
        entry, attempt = archive.entries.find(*place, path), archive.attempt(event.attempt)
        attempt["turns"] = attempt.get("turns", 0) + 1
        if entry is None:
            attempt["saves"] += 1
            entry = archive.entries.add(Entry(*place, path, event.time, number=attempt["saves"]))
        else:
            entry.saves += 1
            entry.state, entry.retry_at, entry.tries = WAITING, None, 0
            entry.is_whole = entry.is_held = False
            entry.incomplete_since = None
        entry.time, entry.epoch, entry.turn = event.time, event.epoch, attempt["turns"]
        attempt_of, step_of, evaluated = archive.state.get("evaluated", ("", -1, {}))
        known = evaluated if (attempt_of, step_of) == place else {}
        logged = self._logged[1] if self._logged[0] == place else {}
        entry.metrics = numbers({**known, **metrics, **logged, **known, **metrics})
        entry.why = None
        seconds = UNHELD_SECONDS if find_hold(path) is None else HELD_SECONDS
        entry.ready_at = self._clock() + seconds
        return entry

    def _note_end(self, run: RunContext, producer: object, name: object) -> None:
        archive = self._open(run)
        attempt = archive.attempt(str(name))
        attempt["open"] = [one for one in attempt["open"] if one != producer]
        if not attempt["open"]:
            soon = self._clock() + ENDED_SECONDS
            for entry in archive.entries.all:
                if entry.is_open and not entry.is_whole and entry.attempt == name:
                    entry.ready_at = min(entry.ready_at, soon)
        archive.store()

    def _cancel(self, entry: Entry) -> None:
        if self._worker is not None:
            self._worker.cancel(entry.id)

    def _release(self, archive: RunArchive) -> None:
        """Remove the holds of what is archived or given up."""
        needed = {entry.hold for entry in archive.entries.all if entry.is_open}
        for entry in archive.entries.all:
            if entry.hold and not entry.is_open:
                read = self._outcomes.stamps.get(entry.id)
                is_over = archive.is_over(entry.attempt)
                if entry.hold in needed or release(entry.hold, read, is_over=is_over):
                    entry.hold = None
                    self._outcomes.stamps.pop(entry.id, None)

    def _note_progress(self, archive: RunArchive, worker: Worker, now: float) -> None:
        copying = worker.copying
        entry = archive.entries.find(*copying.task.entry) if copying else None
        if copying is None or entry is None or not entry.is_open:
            return
        if entry.state == COPYING and now < self._progress_at:
            return
        self._progress_at = now + PROGRESS_SECONDS
        entry.state, entry.is_begun, entry.why, entry.retry_at = COPYING, True, None, None
        if copying.progress is not None:
            progress = copying.progress
            entry.bytes, entry.done, entry.sent = progress.total, progress.done, progress.sent
        archive.run.publish(CHECKPOINT_PROGRESS, archive.data(entry))


def _count(event: RunEvent, name: str) -> int:
    value = event.data.get(name)
    return value if isinstance(value, int) and value >= 0 else 0
