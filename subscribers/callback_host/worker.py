"""The process of one callback and one attempt: reads the run and calls the callback."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from lineside.bus.callback_config import parse_entry, with_ids
from lineside.bus.client.reader import Batch, Reader
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import RANK_0, Gap, Stream
from lineside.bus.service import configure_logging, lower_priority
from lineside.bus.settings import Settings
from lineside.subscribers.batch_subscriber import BatchSubscriber
from lineside.subscribers.callback_host.hook_watch import HookWatch
from lineside.subscribers.callback_host.hosted_callback import HostedCallback, UnusableCallback
from lineside.subscribers.callback_host.trackers.tracker import RunEnd
from lineside.subscribers.callback_host.worker_spec import (
    DONE,
    RECORDED,
    STOPPED,
    SUSPENDED,
    UNUSABLE,
    WorkerSpec,
    reader_name,
    state_path,
)
from lineside.subscribers.context import RunFilter
from lineside.subscribers.event_loop import EventLoop
from lineside.subscribers.handler_runner import HandlerRunner, Setup, SubscriberStopped
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.publication_sender import PublicationSender
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.state.subscriber_state import SubscriberState
from lineside.subscribers.subscriber import SKIP

log = logging.getLogger("lineside")

SILENT_SECONDS = 600.0
"""A run without an event, heartbeats included, for this long gets a process at its next event."""
_EXIT_SECONDS = 60.0  # for what trackers do when the interpreter ends
_GRACE_SECONDS = 2.5  # after SIGTERM, for the hook that is being called
_SENDER_SECONDS = 2.0
_FULL_DISK_SECONDS = 5.0
_DEFAULTS = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # or it mirrors other trackers' runs
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # torch is missing on purpose
}


class CallbackWorker(BatchSubscriber):
    """Reads a run from the attempt's start, and calls the callback behind the stored position."""

    credit = 64

    def __init__(self, settings: Settings, spec: WorkerSpec) -> None:
        super().__init__(settings)
        self.spec = spec
        [self.entry] = with_ids([parse_entry(spec.entry, spec.index)])
        self.name = reader_name(self.entry.id, spec.run)
        self.exit_code = SUSPENDED
        self.hosted = HostedCallback(spec, self.entry)
        self._stream = Stream(spec.run, RANK_0, spec.attempt)
        self._event_at = time.monotonic()
        self._is_silent = False
        self._delay = 0.0
        self._loop = EventLoop()
        self._fatal: BaseException | None = None

    def startup(self) -> None:
        state_file = SubscriberState(state_path(Path(self.spec.folder)))
        self._state_file = state_file
        self._sender = PublicationSender(self.settings.broker, state_file, self._set_fatal)
        self._sender.start()
        state_file.mark_used()
        # A process that the callback forks may outlive this one, and would keep the lock.
        os.register_at_fork(after_in_child=state_file.release_lock)
        setup = Setup(
            self.entry.id,
            self.entry.on_error or SKIP,
            HostedCallback,
            lambda: self.hosted,
            Handlers(HostedCallback),
            state_file,
            RunFilter().matches,
            self._loop.wait_for,
            self._sender.wake,
            self.hosted.replay,
            0.0,
        )
        self.runner = HandlerRunner(setup, self.spec.run, lambda: self.should_exit)
        self.runner.run.redact_errors(self.hosted.redact)
        self._was_closed = self.hosted.begin(self.runner.run)
        self.runner.run.keep()
        self.reader = self.open_reader()

    @property
    def streams(self) -> Sequence[str]:  # type: ignore[override]
        return (self.spec.run,)

    def position(self) -> tuple[str | None, int] | None:
        return self.spec.journal, self.spec.offset

    def handle(self, batches: Sequence[Batch]) -> bool:
        for batch in batches:
            for gap in batch.gaps:
                self.handle_gap(gap)
            if batch.events:
                self._event_at = time.monotonic()
            if batch.stream is not None and batch.stream != self._stream:
                # Of these no place is kept: another attempt's events are another process's work.
                for event in batch.events:
                    self.hosted.end.observe(batch.stream, event)
                continue
            while not self._process_batch(batch):
                if self.should_exit:
                    return False
                self._pause(self._delay)
        return True

    def handle_gap(self, gap: Gap) -> None:
        if gap.stream is not None:
            self.hosted.end.skip_to(gap.stream, gap.end)

    def tick(self, now: float) -> None:
        if self._fatal is not None:
            raise self._fatal
        if self.should_exit or not self.is_caught_up:
            return
        end = self.find_end(now)
        if end is not None:
            self._finish(end)

    def find_end(self, now: float) -> RunEnd | None:
        """How the attempt ended; None while it goes on. A run that is silent ends this process."""
        end = self.hosted.end.find()
        if end is None and now - self._event_at > SILENT_SECONDS:
            end = self.hosted.end.find_silent()
            if end is None:
                log.info("%s: run %s is silent", self.entry.id, self.spec.run)
                self._is_silent = self.should_exit = True
        return end

    def shutdown(self) -> None:
        if self.exit_code == SUSPENDED and self.hosted.is_started:
            try:
                self.hosted.suspend()
            except Exception:
                log.exception("%s: suspend", self.entry.id)
        if hasattr(self, "runner"):
            try:
                self.runner.close()
            except StateFileError as error:
                log.warning("%s", error)
            self._sender.close(_SENDER_SECONDS)
            reader: Reader | None = getattr(self, "reader", None)
            if reader is not None and (self.exit_code == DONE or self._is_silent):
                reader.forget()
            elif reader is not None:
                reader.close()
            self._state_file.close()

    def _process_batch(self, batch: Batch) -> bool:
        """Handle a batch; False if it is to be tried again after ``_delay``."""
        try:
            is_done = self.runner.process(batch)
            self._delay = self.runner.retry_delay
        except StateFileError as error:
            # What was called is known in memory; nothing else is called until it is on disk.
            log.warning("%s", error)
            self._delay = _FULL_DISK_SECONDS
            return False
        except SubscriberStopped as error:
            self._stop(error)
            return False
        return is_done

    def _finish(self, end: RunEnd) -> None:
        """Close the tracker's run, and end."""
        hosted, run = self.hosted, self.runner.run
        try:
            if hosted.is_started or not self._was_closed:
                log.info("%s: attempt %s is over: %s", run.id, self.spec.attempt, end.status)
                if not self.runner.perform(str(self._stream), "close_tracker", end):
                    self._pause(self.runner.retry_delay)
                    return
                hosted.mark_closed(run, end)
            run.save()
        except StateFileError as error:
            log.warning("%s", error)
            self._pause(_FULL_DISK_SECONDS)
        except SubscriberStopped as error:
            self._stop(error)
        else:
            self.exit_code, self.should_exit = DONE, True

    def _stop(self, error: SubscriberStopped) -> None:
        """End because of an error that no later event repairs."""
        log.error("%s", error)
        self.should_exit = True
        self.exit_code = STOPPED
        if isinstance(error, UnusableCallback):
            self.exit_code = UNUSABLE
            run, text = self.runner.run, str(error)
            if run.open_state().get("unusable") != text:  # it is tried again, and shown once
                run.open_state()["unusable"] = text
                run.is_failing = True
                self.runner.report("retrying", "__init__", 1, error)
                run.save()

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.should_exit and time.monotonic() < deadline:
            time.sleep(0.1)

    def watch(self) -> None:
        """Report a hook that hangs, and end the process where it does not end by itself.

        Of a thread of its own, for as long as the process lives.
        """
        hooks, exit_at = HookWatch(self.hosted, self._report_hang), math.inf
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            hooks.check(now)
            if self._supervisor and os.getppid() != self._supervisor:
                self.should_exit = True  # a hook that hangs does not delay it
            if self.should_exit:
                is_done = self.exit_code == DONE
                exit_at = min(exit_at, now + (_EXIT_SECONDS if is_done else _GRACE_SECONDS))
            if now >= exit_at:
                log.warning("%s did not end in time", self.hosted.hook or "the interpreter")
                os._exit(self.exit_code)

    def _report_hang(self, action: str, hook: str, error: Exception | None) -> None:
        with contextlib.suppress(StateFileError):  # it is closed, or the disk is full
            self.runner.report(action, hook, 1, error)

    def _set_fatal(self, error: BaseException) -> None:
        self._fatal = error


def run_worker() -> NoReturn:
    """Run the callback whose spec is on standard input, until its attempt is over.

    It ends with the manager.
    """
    configure_logging()
    lower_priority()
    source = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    code = 1
    try:
        # Unbuffered: the events of a recorded run may follow the spec.
        with os.fdopen(source, "rb", buffering=0) as file:
            spec = WorkerSpec.from_line(file.readline())
            settings = replace(Settings.from_env(), broker=spec.broker)
            # Trainers that trackers make here are none to follow.
            os.environ.update({**_DEFAULTS, **os.environ, "LINESIDE_DISABLED": "1"})
            if spec.source == RECORDED:
                from lineside.subscribers.callback_host.recorded_worker import RecordedWorker

                worker: CallbackWorker = RecordedWorker(settings, spec, source)
            else:
                worker = CallbackWorker(settings, spec)
            threading.Thread(target=worker.watch, name="watch", daemon=True).start()
            worker.serve()
            code = worker.exit_code
    except LinesideError as error:
        log.error("%s", error)  # noqa: TRY400 - its sentence is enough
    except Exception:
        log.exception("the callback's process ends")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(
            OSError, ValueError
        ):  # the callback closed it, or the disk is full
            stream.flush()
    if code != DONE:
        os._exit(code)  # nothing may mark the tracker's run as finished
    sys.exit(code)
