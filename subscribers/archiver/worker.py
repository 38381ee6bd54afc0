"""Works for one run in the archive: one task after another, in a thread that ends with them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lineside.store.archive.archive import Progress
from lineside.store.archive.errors import ArchiveError
from lineside.subscribers.archiver.outcomes import is_archive_fault
from lineside.subscribers.archiver.slots import Slots
from lineside.subscribers.archiver.source import SourceGone
from lineside.subscribers.archiver.tasks import ArchiveWork, Copy, EntryId, Result, Task, identity

log = logging.getLogger("lineside")

TURN_SECONDS = 5.0
"""How long a run begins new tasks while other runs wait."""


@dataclass(frozen=True)
class Copying:
    """The copy in progress."""

    task: Copy
    progress: Progress | None


class Worker:
    """Does tasks of ``run``, in the order of the latest ``plan``; writing and removing never meet.

    ``start`` starts the thread, and runs its target.
    """

    def __init__(
        self,
        run: str,
        work: ArchiveWork,
        slots: Slots,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._run = run
        self._work = work
        self._slots = slots
        self._start = start or self._start_thread
        self._lock = threading.Lock()
        self._plan: deque[Task] = deque()
        self._results: list[Result] = []
        self._is_running = self._is_stopping = False
        self._task: Task | None = None
        self._progress: Progress | None = None
        self._stop = threading.Event()

    @property
    def copying(self) -> Copying | None:
        """The copy in progress; None if there is none."""
        with self._lock:
            task = self._task
            return Copying(task, self._progress) if isinstance(task, Copy) else None

    def plan(self, tasks: Sequence[Task]) -> None:
        """Do ``tasks`` next instead of what was planned; what is being done goes on.

        What is done already, and not collected, is not done again.
        """
        with self._lock:
            done = {identity(result.task) for result in self._results}
            done |= {identity(self._task)} if self._task is not None else set()
            self._plan = deque(task for task in tasks if identity(task) not in done)
            if self._is_running:
                return
            if not self._plan:
                self._slots.withdraw(self._run)
                return
            if not self._slots.take(self._run, self.stop):
                return
            self._is_running = True
            self._is_stopping = False
        self._start(self._work_through)

    def collect(self) -> list[Result]:
        """The results since the last call."""
        with self._lock:
            results, self._results = self._results, []
            return results

    def cancel(self, entry: EntryId) -> None:
        """Stop copying ``entry``, if that is being done."""
        with self._lock:
            if isinstance(self._task, Copy) and self._task.entry == entry:
                self._stop.set()

    def stop(self) -> None:
        """Begin nothing more, and stop copying."""
        with self._lock:
            self._is_stopping = True
            self._stop.set()
        self._slots.withdraw(self._run)

    def _start_thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"archive {self._run}", daemon=True).start()

    def _work_through(self) -> None:
        until = time.monotonic() + TURN_SECONDS
        while (task := self._next(until)) is not None:
            result = self._perform(task)
            with self._lock:
                self._task = self._progress = None
                self._results.append(result)
                if is_archive_fault(result):
                    self._plan.clear()  # the others would fail as well

    def _next(self, until: float) -> Task | None:
        is_over = time.monotonic() >= until and self._slots.has_waiting
        with self._lock:
            if not self._plan or is_over or self._is_stopping:
                self._is_running = False
                self._slots.give_back(self._run)
                return None
            self._task = self._plan.popleft()
            self._stop.clear()
            return self._task

    def _perform(self, task: Task) -> Result:
        try:
            return self._work.perform(task, self._note_progress, self._stop)
        except (ArchiveError, SourceGone, OSError) as error:
            return Result(task, error)
        except BaseException as error:  # a panic of obstore is no Exception
            log.exception("archiver: %s of run %s", type(task).__name__, self._run)
            return Result(task, RuntimeError(f"{type(error).__name__}: {error}"))

    def _note_progress(self, progress: Progress) -> None:
        with self._lock:
            self._progress = progress
