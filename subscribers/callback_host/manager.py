"""The manager process: it runs a process for each callback and run, and ends with them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from lineside.bus.callback_config import CallbackEntry, parse_entry
from lineside.bus.callbacks.hidden_values import hide_secrets
from lineside.bus.client.reader import Batch
from lineside.bus.errors import CallbackConfigError, LinesideError, UsageError
from lineside.bus.protocol.events import RANK_0, Event, Stream, is_run_id
from lineside.bus.settings import Settings
from lineside.bus.wording import describe_exit
from lineside.subscribers.batch_subscriber import BatchSubscriber
from lineside.subscribers.callback_host.host_state import (
    DONE,
    OPEN,
    SILENT,
    Attempt,
    EntryStart,
    HostState,
    saved_place,
)
from lineside.subscribers.callback_host.job_queue import JobQueue
from lineside.subscribers.callback_host.process_reports import ProcessReports
from lineside.subscribers.callback_host.worker_process import WorkerProcess
from lineside.subscribers.callback_host.worker_spec import (
    DONE as EXIT_DONE,
)
from lineside.subscribers.callback_host.worker_spec import (
    READER,
    STOPPED,
    SUSPENDED,
    UNUSABLE,
    WorkerSpec,
    callback_folder,
)
from lineside.subscribers.context import RunFilter
from lineside.subscribers.publication_sender import PublicationSender
from lineside.subscribers.state.state_file import StateFileError

log = logging.getLogger("lineside")

MAX_PROCESSES = 64
"""Processes of callbacks that live at the same moment; the others take turns."""
TURN_SECONDS = 120.0
"""How long a process may live while others wait for a place."""
RECENT_SECONDS = 600.0
"""A run with an event this long before the host first had an entry is hosted too."""
UNUSABLE_SECONDS = 600.0
"""After how long a callback that cannot be made is tried again."""
_SCHEDULE_SECONDS = 0.1
_FULL_DISK_SECONDS = 1.0  # until a state that could not be kept is tried again
_TRIM_SECONDS = 5.0
_PRUNE_SECONDS = 3600.0
_END_SECONDS = 3.5  # that all processes have at the end; ``up`` gives this process five
_HEALTHY_SECONDS = 30.0  # that a process lives until what was wrong counts as repaired


class CallbackHost(BatchSubscriber):
    """Runs ``entries`` for the runs that they match, and the trackers that runs hand over.

    An entry is for every attempt with an event after the host first had the entry, or shortly
    before; a tracker in ``taken_over`` of a ``run_start`` is for that attempt.
    """

    name = READER
    streams = ("*/rank0", "*/shipper", "*/launcher")

    def __init__(
        self,
        settings: Settings,
        entries: Sequence[CallbackEntry] = (),
        *,
        max_processes: int = MAX_PROCESSES,
    ) -> None:
        super().__init__(settings)
        self._entries = {entry.id: entry for entry in entries}
        self._filters = {
            entry.id: RunFilter(entry.runs, entry.projects) for entry in self._entries.values()
        }
        self._max_processes = max_processes
        self._starts: dict[str, EntryStart] = {}  # of each entry, in this journal
        self._attempts: dict[tuple[str, str], Attempt] = {}
        self._newest: dict[str, str] = {}  # the newest attempt of each run
        self._reported_at: dict[tuple[str, str], int] = {}  # before the attempt's first event
        self._last_events: dict[tuple[str, str], Event] = {}
        self._queues: dict[tuple[str, str], JobQueue] = {}
        self._active: dict[tuple[str, str], JobQueue] = {}  # with an open job or a process
        self._wanted: dict[tuple[str, str], list[CallbackEntry]] = {}
        self._fatal: BaseException | None = None
        self._schedule_at = self._trim_at = self._prune_at = 0.0

    def startup(self) -> None:
        self.begin_progress()
        self._state_file = HostState.of_home(self.settings.home)
        self._sender = PublicationSender(self.settings.broker, self._state_file, self._set_fatal)
        for attempt in self._state_file.attempts():
            self._add_attempt(attempt)
        for job in self._state_file.jobs():
            queue = self._queue(job.entry, job.run)
            queue.add(job)
            if job.state == OPEN:
                self._active[job.entry, job.run] = queue
        self._sender.start()
        super().startup()

    def handle(self, batches: Sequence[Batch]) -> bool:
        while not self.should_exit:
            try:
                self._take(batches)
            except StateFileError as error:
                # All of it again, once the disk has room: the processes live on meanwhile.
                log.warning("%s: %s", self.name, error)
                time.sleep(_FULL_DISK_SECONDS)
            else:
                return True
        return False

    def _take(self, batches: Sequence[Batch]) -> None:
        self._find_starts()
        for batch in batches:
            stream = batch.stream
            if stream is None or not batch.events or not is_run_id(stream.run):
                continue
            if stream.producer == RANK_0:
                self._handle_events(stream, batch)
            else:
                self._note_reports(stream.run, batch)
        self._state_file.sync()

    def on_journal_changed(self) -> None:
        self._starts.clear()
        self._reported_at.clear()

    def tick(self, now: float) -> None:
        if self._fatal is not None:
            raise self._fatal
        if now >= self._schedule_at:
            self._schedule_at = now + _SCHEDULE_SECONDS
            try:
                if self.reader.is_subscribed:
                    self._find_starts()
                self._reap(now)
                self._start_workers(now)
            except StateFileError as error:  # what was not kept of a process is found again
                log.warning("%s: %s", self.name, error)
                self._schedule_at = now + _FULL_DISK_SECONDS
        if now >= self._trim_at:
            self._trim_at = now + _TRIM_SECONDS
            for queue in self._active.values():
                if queue.worker is not None:
                    queue.worker.log.trim()
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            with contextlib.suppress(StateFileError):
                self._state_file.prune()

    def flush(self) -> None:
        """End all processes; their positions are kept."""
        workers = [queue.worker for queue in self._active.values() if queue.worker is not None]
        for worker in workers:
            worker.end()
        deadline = time.monotonic() + _END_SECONDS
        for worker in workers:
            if not worker.wait(deadline):
                log.warning("%s: pid %d did not end: killed", self.name, worker.pid)
                worker.kill()

    def shutdown(self) -> None:
        super().shutdown()
        if hasattr(self, "_sender"):
            self._sender.close(0.5)
            self._state_file.close()

    def _find_starts(self) -> None:
        """Note where each new entry begins; of another journal all do."""
        journal, head = self.reader.journal, self.reader.head
        known = self._state_file.entries()
        for entry in self._entries:
            if entry in self._starts:
                continue
            start = known.get(entry)
            if start is None or start.journal != journal:
                start = EntryStart(journal, head, time.time() if start is None else start.time)
                self._state_file.save_entry(entry, start)
            self._starts[entry] = start

    def _handle_events(self, stream: Stream, batch: Batch) -> None:
        key = (stream.run, stream.attempt)
        first, last = batch.events[0], batch.events[-1]
        attempt = self._attempts.get(key)
        if first.kind == "run_start" and (attempt is None or attempt.journal != self.journal):
            begin = self._reported_at.get(key, batch.offset - 1)
            attempt = Attempt.of_facts(stream, first.data or {}, self.journal, begin)
            self._state_file.save_attempt(attempt)
            self._reported_at.pop(key, None)
            self._add_attempt(attempt)
        if attempt is None:
            return  # its beginning has left the journal
        self._last_events[key] = last
        for entry in self._entries_for(attempt):
            if entry is not self._entries.get(entry.id):
                is_new = True  # the run hands it over
            else:
                start = self._starts[entry.id]
                is_new = batch.offset > start.offset or last.time > start.time - RECENT_SECONDS
            if is_new:
                queue = self._queue(entry.id, stream.run)
                if queue.open(stream.attempt, last.seq):
                    self._active[entry.id, stream.run] = queue

    def _note_reports(self, run: str, batch: Batch) -> None:
        """Note where reports on an attempt begin, which may overtake its own first event."""
        for event in batch.events:
            attempt = (event.data or {}).get("attempt")
            if isinstance(attempt, str) and (run, attempt) not in self._attempts:
                self._reported_at.setdefault((run, attempt), batch.offset - 1)

    def _entries_for(self, attempt: Attempt) -> list[CallbackEntry]:
        """The entries that match, and those of trackers that the run hands over."""
        key = (attempt.run, attempt.attempt)
        if key not in self._wanted:
            found = [
                entry
                for entry in self._entries.values()
                if self._filters[entry.id].fits(attempt.run, attempt.name, attempt.project)
            ]
            paths = {entry.class_path for entry in found}
            for name in attempt.taken_over:
                try:
                    entry = replace(parse_entry(name), id=name)
                except CallbackConfigError as error:
                    log.warning("%s: run %s hands over %s", self.name, attempt.run, error)
                    continue
                if entry.class_path not in paths:
                    found.append(entry)
            self._wanted[key] = found
        return self._wanted[key]

    def _add_attempt(self, attempt: Attempt) -> None:
        key = (attempt.run, attempt.attempt)
        self._attempts[key] = attempt
        self._wanted.pop(key, None)
        self._newest[attempt.run] = max(self._newest.get(attempt.run, ""), attempt.attempt)

    def _queue(self, entry: str, run: str) -> JobQueue:
        queue = self._queues.get((entry, run))
        if queue is None:
            queue = self._queues[entry, run] = JobQueue(
                entry,
                run,
                self._state_file,
                ProcessReports(entry, run, self._state_file, self._sender),
            )
        return queue

    def _reap(self, now: float) -> None:
        for queue in self._active.values():
            worker = queue.worker
            if worker is None:
                continue
            if (code := worker.poll()) is not None:
                queue.worker, queue.waiting_since = None, now
                self._take_result(queue, worker, code, now)
            elif now - worker.started_at >= _HEALTHY_SECONDS:
                self._on_healthy(queue, worker.spec.attempt)

    def _take_result(self, queue: JobQueue, worker: WorkerProcess, code: int, now: float) -> None:
        """Keep how far an ended process came, and when the next one starts."""
        attempt = worker.spec.attempt
        if code in (EXIT_DONE, SUSPENDED):
            try:
                next_seq, is_closed = saved_place(worker.spec)
            except LinesideError as error:
                log.warning("%s: %s", self.name, error)
                queue.not_before = now + queue.backoff.fail()
                return
            if code == EXIT_DONE and not is_closed:
                self._on_crash(queue, worker, code, now)  # the callback ended its process
                return
            last, job = self._last_events.get((queue.run, attempt)), queue.find(attempt)
            # Events that expired before they were read never come.
            has_advanced = job is None or next_seq > job.next_seq
            if last is None or last.seq < next_seq or not has_advanced:
                if code == EXIT_DONE:
                    queue.set_state(attempt, DONE, next_seq)
                elif not worker.is_ending:
                    queue.set_state(attempt, SILENT, next_seq)
            else:
                queue.set_state(attempt, OPEN, next_seq)
            self._on_healthy(queue, attempt)
        elif code == UNUSABLE:
            queue.not_before = now + UNUSABLE_SECONDS
        elif code == STOPPED:
            queue.is_stopped = True
        elif not worker.is_ending:
            self._on_crash(queue, worker, code, now)

    def _start_workers(self, now: float) -> None:
        waiting, alive = [], []
        for key, queue in list(self._active.items()):
            if queue.worker is not None:
                alive.append(queue.worker)
                continue
            job = queue.next_job(self._newest.get(queue.run, ""))
            if job is None:
                del self._active[key]
            elif not queue.is_stopped and now >= queue.not_before:
                attempt = self._attempts.get((queue.run, job.attempt))
                if attempt is not None and (entry := self._entry_of(queue, attempt)) is not None:
                    waiting.append((queue, attempt, entry))
        waiting.sort(key=lambda one: one[0].waiting_since)
        free = max(0, self._max_processes - len(alive))
        for queue, attempt, entry in waiting[:free]:
            self._start(queue, attempt, entry, now)
        self._end_turns(alive, len(waiting) - free, now)

    def _end_turns(self, alive: list[WorkerProcess], waiting: int, now: float) -> None:
        """Have the processes that lived longest make room for as many that wait."""
        needed = waiting - sum(worker.is_ending for worker in alive)
        old = [w for w in alive if not w.is_ending and now - w.started_at > TURN_SECONDS]
        for worker in sorted(old, key=lambda one: one.started_at)[: max(0, needed)]:
            worker.end()

    def _entry_of(self, queue: JobQueue, attempt: Attempt) -> CallbackEntry | None:
        """The queue's entry; None if it is no longer configured for the attempt."""
        entries = self._entries_for(attempt)
        return next((entry for entry in entries if entry.id == queue.entry), None)

    def _start(self, queue: JobQueue, attempt: Attempt, entry: CallbackEntry, now: float) -> None:
        spec = WorkerSpec(
            entry.as_mapping(),
            attempt.run,
            attempt.attempt,
            self.settings.broker,
            str(callback_folder(self.settings.home, entry.id, attempt.run)),
            attempt.journal,
            attempt.offset,
            index=entry.index,
        )
        try:
            queue.worker = WorkerProcess(spec, entry.python)
        except (OSError, LinesideError) as error:
            queue.not_before = now + queue.backoff.fail()
            if entry.python is not None and isinstance(error, (FileNotFoundError, PermissionError)):
                error = UsageError(
                    f"python {entry.python!r} of callback {entry.id} cannot be run "
                    f"({error.strerror}): expected an interpreter that has lineside and "
                    "transformers"
                )
                queue.not_before = now + UNUSABLE_SECONDS
            self._report(queue, attempt.attempt, str(error))

    def _on_crash(self, queue: JobQueue, worker: WorkerProcess, code: int, now: float) -> None:
        """Report a process that ended by itself; it is started again."""
        delay, last = queue.backoff.fail(), worker.last_output()
        entry = parse_entry(worker.spec.entry)
        last = hide_secrets(last, entry.args, entry.environment, os.environ)
        text = f"its process ended ({describe_exit(code)}): {last}"
        if "No module named" in last and worker.python is not None:
            text = f"python {worker.python!r} cannot run callbacks: {last}; install lineside there"
            delay = UNUSABLE_SECONDS
        queue.not_before = now + delay
        self._report(queue, worker.spec.attempt, f"{text} (all of it: {worker.log.path})")

    def _on_healthy(self, queue: JobQueue, attempt: str) -> None:
        queue.backoff.succeed()
        queue.reports.recover(attempt, self._last_events.get((queue.run, attempt)))

    def _report(self, queue: JobQueue, attempt: str, text: str) -> None:
        log.warning("%s: %s of run %s: %s", self.name, queue.entry, queue.run, text)
        queue.reports.fail(attempt, text, self._last_events.get((queue.run, attempt)))

    def _set_fatal(self, error: BaseException) -> None:
        self._fatal = error
