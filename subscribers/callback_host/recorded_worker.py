"""The process of one callback and one recorded attempt, whose events come on standard input."""

from __future__ import annotations

import logging
from typing import Any

from lineside.bus.settings import Settings
from lineside.subscribers.callback_host.recorded_events import RecordedReader
from lineside.subscribers.callback_host.trackers.tracker import RunEnd
from lineside.subscribers.callback_host.worker import CallbackWorker
from lineside.subscribers.callback_host.worker_spec import WorkerSpec

log = logging.getLogger("lineside")


class RecordedWorker(CallbackWorker):
    """Reads the attempt from the file descriptor behind its spec."""

    def __init__(self, settings: Settings, spec: WorkerSpec, descriptor: int) -> None:
        super().__init__(settings, spec)
        self._recorded = RecordedReader(descriptor)

    def open_reader(self) -> Any:
        return self._recorded

    def find_end(self, now: float) -> RunEnd | None:  # noqa: ARG002 - all is read
        """How the attempt ended by its events, or else by the status of the store."""
        end = self.hosted.end
        return end.find() or end.find_silent() or self._recorded.end

    def tick(self, now: float) -> None:
        if self._recorded.is_cut and not self.should_exit:
            log.info("%s: the recorded events end early, ending", self.name)
            self.should_exit = True
        super().tick(now)
