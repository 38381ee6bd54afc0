"""The work on one callback and run: its attempts, one process after another."""

from __future__ import annotations

from lineside.subscribers.backoff import Backoff
from lineside.subscribers.callback_host.host_state import DONE, OPEN, HostState, Job
from lineside.subscribers.callback_host.process_reports import ProcessReports
from lineside.subscribers.callback_host.worker_process import WorkerProcess

_RESTART_SECONDS = (0.5, 60.0)


class JobQueue:
    """The attempts of a run that a callback has to work on; at most one has a process."""

    def __init__(
        self, entry: str, run: str, state_file: HostState, reports: ProcessReports
    ) -> None:
        self.entry = entry
        self.run = run
        self.reports = reports
        self.worker: WorkerProcess | None = None
        self.waiting_since = 0.0
        """Since when it waits for its turn, by the monotonic clock."""
        self.not_before = 0.0
        self.is_stopped = False
        """Whether the callback's ``on_error`` ended it until the manager starts again."""
        self.backoff = Backoff(*_RESTART_SECONDS)
        self._state_file = state_file
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job) -> None:
        """Take a job as it is kept."""
        self._jobs[job.attempt] = job

    def find(self, attempt: str) -> Job | None:
        """The job of an attempt."""
        return self._jobs.get(attempt)

    def open(self, attempt: str, newest_seq: int) -> bool:
        """An event of ``attempt`` came; whether its job was opened by that."""
        job = self._jobs.get(attempt)
        if job is not None and (job.state == OPEN or newest_seq < job.next_seq):
            return False
        self.set_state(attempt, OPEN, 0 if job is None else job.next_seq)
        return True

    def set_state(self, attempt: str, state: str, next_seq: int) -> None:
        """Keep how far the job of an attempt is."""
        job = Job(self.entry, self.run, attempt, state, next_seq)
        if self._jobs.get(attempt) != job:
            self._state_file.save_job(job)
            self._jobs[attempt] = job

    def next_job(self, newest: str) -> Job | None:
        """The oldest open job; a silent one is over once a ``newest`` attempt has begun."""
        for job in sorted(self._jobs.values(), key=lambda one: one.attempt):
            if job.state not in (OPEN, DONE) and job.attempt < newest:
                self.set_state(job.attempt, DONE, job.next_seq)
            elif job.state == OPEN:
                return job
        return None
