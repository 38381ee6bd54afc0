"""SwanLab: one experiment for each run, by a run id of ours.

SwanLab's own callback is hosted: the one of transformers has not worked since SwanLab 0.9.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.background.delivery import (
    FLUSH_SECONDS,
    BackgroundTracker,
    NotDelivered,
    stable_id,
)
from lineside.subscribers.callback_host.trackers.tracker import HookCall, RunEnd

# What SwanLab collects by itself describes the process that it runs in, which is not the training.
_OF_THIS_PROCESS = {
    "SWANLAB_TERMINAL_PROXY_TYPE": "none",
    "SWANLAB_PROBE_HARDWARE": "false",
    "SWANLAB_PROBE_RUNTIME": "false",
    "SWANLAB_PROBE_REQUIREMENTS": "false",
    "SWANLAB_PROBE_MONITOR": "false",
}
_STATES = {"finished": "success", "stopped": "success", "failed": "crashed", "lost": "crashed"}


class _Barrier:
    """Comes out of SwanLab's queue behind all that was logged before it."""

    def __init__(self) -> None:
        self.reached = threading.Event()


class SwanLab(BackgroundTracker):
    """SwanLab in its modes online, local and offline."""

    name: ClassVar[str] = "swanlab"
    packages: ClassVar[tuple[str, ...]] = ("swanlab",)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._run: Any = None
        self._event_time: float | None = None

    def environment(self) -> dict[str, str]:
        given = self.run.facts.get("environment") or {}
        run_id = given.get("SWANLAB_RUN_ID") or self.run.identity.get("run_id")
        if run_id is None:
            run_id = stable_id(self.run)[:21]
        self.run.identity["run_id"] = run_id
        return _OF_THIS_PROCESS | {"SWANLAB_RUN_ID": run_id, "SWANLAB_RESUME": "allow"}

    def created(self, callback: Any) -> None:
        store = self.run.identity.pop("store", None)
        if store is not None and Path(store["path"]).is_file():
            # What is behind belongs to events that are delivered again.
            os.truncate(store["path"], store["size"])

    def before(self, call: HookCall) -> bool:
        self._event_time = call.event.time
        if call.hook == "on_evaluate" and self.run.identity.get("evaluated") == call.event.step:
            return False  # on_log had the same values; only one process knows that by itself
        return super().before(call)

    def after(self, call: HookCall) -> None:
        super().after(call)
        logs = call.keywords.get("logs") or {}
        if any(name.startswith("eval_") for name in logs):
            self.run.identity["evaluated"] = call.event.step
        path = Path(self._run._core._ctx.run_file) if self._run is not None else None
        if path is not None and path.is_file():
            self.run.identity["store"] = {"path": str(path), "size": path.stat().st_size}

    def flush(self, callback: Any) -> None:
        run = callback._get_active_run()
        if run is None:
            return
        if run is not self._run:
            self._run = run
            self._wrap(run)
        barrier = _Barrier()
        run._components.emitter.emit(barrier)
        if not barrier.reached.wait(FLUSH_SECONDS):
            raise NotDelivered(self.name, FLUSH_SECONDS)
        run._core._store.ensure_flushed()
        deadline = time.monotonic() + FLUSH_SECONDS
        while run._core._tracker is not None and not _is_uploaded(run._core):
            if time.monotonic() > deadline:
                raise NotDelivered(self.name, FLUSH_SECONDS)
            time.sleep(0.01)

    def _wrap(self, run: Any) -> None:
        """Have barriers answered, and metrics carry the time of their event."""
        from swanlab.sdk.internal.bus.events import MetricLogEvent

        consumer, emitter = run._components.consumer, run._components.emitter
        handle, emit = consumer._handle_event, emitter.emit

        def handle_event(event: Any) -> None:
            if isinstance(event, _Barrier):
                consumer._flush()
                event.reached.set()
            else:
                handle(event)

        def emit_event(event: Any) -> None:
            if isinstance(event, MetricLogEvent) and self._event_time is not None:
                event.timestamp.FromMilliseconds(round(self._event_time * 1000))
            emit(event)

        consumer._handle_event, emitter.emit = handle_event, emit_event

    def close(self, callback: Any, end: RunEnd) -> None:
        run = callback._get_active_run()
        if run is None:
            return
        self.flush(callback)
        self.run.identity.pop("store", None)
        error = end.error or {"type": "lost", "message": "the training process is gone"}
        state = _STATES[end.status]
        run.finish(
            state=state,
            error=f"{error['type']}: {error['message']}" if state == "crashed" else None,
        )


def _is_uploaded(core: Any) -> bool:
    """Whether the server has every record that was handed to ``core``."""
    stats = core._tracker.snapshot()
    return bool(stats.uploaded_records >= stats.total_records)
