"""Sends recorded attempts of a run through one callback, in a process as for a run that trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.callback_config import CallbackEntry
from lineside.bus.errors import AddressInUse, LinesideError, UsageError
from lineside.bus.protocol.commands import APPLIED
from lineside.bus.protocol.events import RANK_0, Event, Stream, is_rank
from lineside.bus.settings import Settings
from lineside.bus.wording import describe_exit
from lineside.subscribers.callback_host.recorded_events import end_line, event_line
from lineside.subscribers.callback_host.trackers.tracker import RunEnd
from lineside.subscribers.callback_host.worker_process import OUTPUT, WorkerProcess
from lineside.subscribers.callback_host.worker_spec import (
    DONE,
    RECORDED,
    STOPPED,
    UNUSABLE,
    WorkerSpec,
    callback_folder,
    state_path,
)
from lineside.subscribers.state.subscriber_state import SavedRun, SubscriberState

RecordedEvents = Iterable[tuple[Stream, Event]]

_CRASHES = 3  # of the process, one after another without an event between them
_REPORT_SECONDS = 0.5  # between two of progress
_WAITING_SECONDS = 5.0
_END_SECONDS = 5.0  # that the process has at an interruption
_REPORTS = ("process_lost", "process_exit", APPLIED)  # of other producers on an attempt


class UploadFailed(LinesideError):
    """A recorded run could not be sent whole; what was sent stays."""


@dataclass(frozen=True)
class Progress:
    """How far an upload is: the step of the last event that the process has taken, and its last
    line of output. ``is_waiting``: it has taken none for seconds."""

    step: int
    output: str
    is_waiting: bool


class Backfill:
    """The recorded attempts of ``run`` for one callback."""

    def __init__(self, settings: Settings, entry: CallbackEntry, run: str) -> None:
        self.entry, self.run = entry, run
        self._settings = settings
        self._folder = callback_folder(settings.home, entry.id, run)

    @property
    def log_path(self) -> Path:
        """The file with the output of its process."""
        return self._folder / OUTPUT

    def missing(self, attempts: Sequence[str]) -> list[str]:
        """Those of ``attempts``, oldest first, that were not sent, live or by an upload.

        Raises:
            UsageError: the callback is being sent this run.
        """
        state = self._saved().state
        newest, is_closed = str(state.get("attempt") or ""), bool(state.get("closed"))
        return [one for one in attempts if one > newest or (one == newest and not is_closed)]

    @property
    def skipped(self) -> dict[str, int]:
        """How many events were skipped, by the hook and the type of its error."""
        return dict(self._saved().context.get("skipped") or {})

    def send(
        self,
        attempt: str,
        events: Callable[[], RecordedEvents],
        end: RunEnd,
        on_progress: Callable[[Progress], None],
    ) -> int:
        """Send one attempt, from where an earlier upload of it ended; returns how many events.

        ``events`` returns those of the run from the first on; it is called again if the process
        crashes. ``end`` is how the attempt ended, if its events do not show that.

        Raises:
            UploadFailed: the callback cannot be used, or its process keeps crashing.
        """
        spec = WorkerSpec(
            self.entry.as_mapping(),
            self.run,
            attempt,
            self._settings.broker,
            str(self._folder),
            source=RECORDED,
        )
        for _ in range(_CRASHES):
            worker = WorkerProcess(spec, self.entry.python, is_fed=True)
            try:
                sent = _feed(worker, _of_attempt(events(), attempt), end, on_progress)
                code = worker.poll()
            finally:
                _end(worker)
            if code == DONE:
                return sent
            if code in (UNUSABLE, STOPPED):
                break
        raise UploadFailed(
            f"{self.entry.id}: attempt {attempt} of run {self.run} was not sent whole: "
            f"{worker.last_output()} ({describe_exit(code or 0)}); its output is in "
            f"{worker.log.path}; the same command goes on from here"
        )

    def _saved(self) -> SavedRun:
        path = state_path(self._folder)
        if not path.exists():
            return SavedRun()
        try:
            state_file = SubscriberState(path)
        except AddressInUse:
            raise UsageError(
                f"{self.entry.id} is being sent run {self.run} now, by the callback host or "
                "another upload; expected a run that it is not working on: try again later"
            ) from None
        try:
            return state_file.load(self.run)
        finally:
            state_file.close()


def _of_attempt(events: RecordedEvents, attempt: str) -> Iterator[tuple[Stream, Event]]:
    """What a process for ``attempt`` reads of its run."""
    for stream, event in events:
        if is_rank(stream.producer):
            is_successor = stream.producer == RANK_0 and event.kind == "run_start"
            if stream.attempt == attempt or (is_successor and stream.attempt > attempt):
                yield stream, event
        elif event.kind in _REPORTS:
            yield stream, event


def _feed(
    worker: WorkerProcess,
    events: RecordedEvents,
    end: RunEnd,
    on_progress: Callable[[Progress], None],
) -> int:
    """Hand over all events and wait for the end; returns how many were of the attempt's rank 0."""
    sent, step, shown_at, taken_at = 0, 0, 0.0, time.monotonic()

    def report() -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now >= shown_at + _REPORT_SECONDS:
            shown_at, is_waiting = now, now >= taken_at + _WAITING_SECONDS
            on_progress(Progress(step, worker.last_output() if is_waiting else "", is_waiting))

    def hand_over(line: bytes) -> None:
        while not worker.can_take(_REPORT_SECONDS):
            report()
        worker.feed(line)

    try:
        for stream, event in events:
            hand_over(event_line(stream, event))
            if stream.producer == RANK_0 and stream.attempt == worker.spec.attempt:
                sent, step = sent + 1, event.step
            taken_at = time.monotonic()
            report()
        hand_over(end_line(end))
    except BrokenPipeError:
        pass  # its exit code has the reason
    worker.end_input()
    while not worker.wait(time.monotonic() + _REPORT_SECONDS):
        report()
    return sent


def _end(worker: WorkerProcess) -> None:
    if worker.poll() is None:
        worker.end()
        if not worker.wait(time.monotonic() + _END_SECONDS):
            worker.kill()
