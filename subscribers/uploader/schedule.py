"""When the points of a run are sent: at intervals, and at once when the run is over."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from lineside.subscribers import RunContext
from lineside.subscribers.uploader.options import CollectOptions

MAX_WAIT_SECONDS = 3600.0
"""A point that waits for longer is sent, whatever the interval: its run may be gone."""


class Schedule:
    """At most one sending in each interval of seconds, steps, or part of the run."""

    def __init__(self, options: CollectOptions) -> None:
        self._options = options

    def is_due(self, run: RunContext, now: float) -> bool:
        """Whether what waits is to be sent at ``now``, seconds since the epoch."""
        state = run.open_state()
        if state.get("is_over") or not 0 <= now - state.get("since", 0.0) < MAX_WAIT_SECONDS:
            return True
        progress = run.progress
        if self._options.frequency and progress is not None:
            return self._slot(progress) != state.get("slot")
        if self._options.steps:
            return not 0 <= run.step - state.get("step", -self._options.steps) < self._options.steps
        return not 0 <= now - state.get("sent_at", 0.0) < self._options.interval

    def note(self, run: RunContext, now: float) -> None:
        """All that waited at ``now`` was sent."""
        state: MutableMapping[str, Any] = run.open_state()
        state["sent_at"], state["step"] = now, run.step
        if self._options.frequency and run.progress is not None:
            state["slot"] = self._slot(run.progress)

    def _slot(self, progress: float) -> int:
        return int(progress / self._options.frequency + 1e-9)
