"""ClearML: one task for each run, continued by its id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from lineside.subscribers.callback_host.trackers.background.delivery import (
    FLUSH_SECONDS,
    BackgroundTracker,
    NotDelivered,
    stable_id,
)
from lineside.subscribers.callback_host.trackers.background.event_clock import EventClock
from lineside.subscribers.callback_host.trackers.tracker import HookCall, RunEnd

_METRICS = "metrics.jsonl"


class ClearML(BackgroundTracker):
    """ClearML, with a server or offline (``CLEARML_OFFLINE_MODE=1``)."""

    name: ClassVar[str] = "clearml"
    packages: ClassVar[tuple[str, ...]] = ("clearml",)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._clock = EventClock()

    def created(self, callback: Any) -> None:
        from clearml.backend_interface.metrics import events
        from clearml.backend_interface.task import task as task_module

        events.time = self._clock
        # The callback would close the task at train_end; an evaluation may follow.
        type(callback)._should_close_on_train_end = False
        task = callback._clearml.Task
        # A reporter in a child process would send on after this one is killed.
        task._report_subprocess_enabled = False
        self._is_offline = bool(task.is_offline())
        known = self.run.identity.get("task")
        if self._is_offline:
            session = UUID(stable_id(self.run)[:32])
            task_module.uuid4 = lambda: session
            self._drop_uncommitted()
        init = task.init

        def init_for_run(**given: Any) -> Any:
            # Output, arguments and load of this process are not those of the training, and a task
            # of another run is not to be reused. 0: steps go on as the training counts them.
            given |= {
                "auto_connect_arg_parser": False,
                "auto_connect_streams": False,
                "auto_resource_monitoring": False,
                "reuse_last_task_id": False,
            }
            if known and not self._is_offline:
                given |= {"reuse_last_task_id": known, "continue_last_task": 0}
            task = init(**given)
            self._describe_script(task)
            return task

        task.init = init_for_run

    def _describe_script(self, task: Any) -> None:
        """Name the training's script: ClearML has found this process's and its repository."""
        process = self.run.facts.get("process") or {}
        argv = process.get("argv") or [""]
        task._wait_for_repo_detection(timeout=FLUSH_SECONDS)
        task.set_script(
            repository="",
            branch="",
            commit="",
            diff="",
            working_dir=process.get("cwd") or "",
            entry_point=argv[0],
        )

    def _drop_uncommitted(self) -> None:
        """Cut the offline session's metrics back to the events that are not delivered again."""
        session = self.run.identity.get("session")
        if session is not None and Path(session["folder"], _METRICS).is_file():
            os.truncate(Path(session["folder"], _METRICS), session["size"])

    def before(self, call: HookCall) -> bool:
        self._clock.event_time = call.event.time
        return super().before(call)

    def after(self, call: HookCall) -> None:
        super().after(call)
        task = call.callback._clearml_task
        if task is None:
            return
        self.run.identity["task"] = task.id
        if self._is_offline:
            folder = task.get_offline_mode_folder()
            metrics = folder / _METRICS
            size = metrics.stat().st_size if metrics.is_file() else 0
            self.run.identity["session"] = {"folder": str(folder), "size": size}

    def flush(self, callback: Any) -> None:
        task = callback._clearml_task
        if task is not None:
            # Task.flush() would first wake the reporter and then wait for its next period, 5 s.
            task._reporter.wait_for_events(timeout=FLUSH_SECONDS)
            if task._reporter.events_waiting():
                raise NotDelivered(self.name, FLUSH_SECONDS)

    def close(self, callback: Any, end: RunEnd) -> None:
        self._clock.event_time = None
        task = callback._clearml_task
        if task is None:
            return
        task.close()
        if end.status in ("failed", "lost") and not self._is_offline:
            error = end.error or {"type": "lost", "message": "the training process is gone"}
            task.mark_failed(
                status_reason=error["type"], status_message=error["message"], force=True
            )
