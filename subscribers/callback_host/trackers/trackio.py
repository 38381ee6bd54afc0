"""Trackio: each row with its own step and the event's time, in one Trackio run."""

from __future__ import annotations

import functools
from datetime import datetime, timezone
from typing import Any, ClassVar

from lineside.bus.errors import LinesideError
from lineside.subscribers.callback_host.trackers.module_proxy import ModuleProxy
from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun, RunEnd, Tracker


class NotStored(LinesideError):
    """Trackio reported no error and did not store a row."""


class Trackio(Tracker):
    """Writes each row at once, and reads it back: Trackio reports no failure."""

    name: ClassVar[str] = "trackio"
    packages: ClassVar[tuple[str, ...]] = ("trackio",)

    def __init__(self, run: HostedRun) -> None:
        super().__init__(run)
        self.trackio: Any = None
        self.now = run.started_at
        self.step: int | None = None  # of the next row
        self.has_logged = False  # for this event

    def created(self, callback: Any) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        self.trackio = callback._trackio
        callback._trackio = ModuleProxy(self.trackio, init=self._init, log=self._log)
        bulk_log = SQLiteStorage.bulk_log

        @functools.wraps(bulk_log)
        def bulk_log_then(*args: Any, **options: Any) -> Any:
            if len(args) < 5 and options.get("timestamps") is None:
                rows = options.get("metrics_list") or args[2]
                time = datetime.fromtimestamp(self.now, timezone.utc).isoformat()
                options["timestamps"] = [time] * len(rows)
            return bulk_log(*args, **options)

        SQLiteStorage.bulk_log = staticmethod(bulk_log_then)

    def before(self, call: HookCall) -> bool:
        self.now = call.event.time
        self.step = self.run.identity.get("rows")
        self.has_logged = False
        return True

    def after(self, call: HookCall) -> None:
        if self.has_logged:
            self._store(self._current_run())
        if self.step is not None:
            self.run.identity["rows"] = self.step

    def is_delivery_error(self, error: Exception) -> bool:
        return isinstance(error, (NotStored, OSError))

    def close(self, callback: Any, end: RunEnd) -> None:
        if self._current_run() is not None:
            self.trackio.finish()

    def _current_run(self) -> Any:
        return self.trackio.context_vars.current_run.get()

    def _init(self, **options: Any) -> Any:
        identity = self.run.identity
        options["name"] = options.get("name") or identity.get("name")
        # They would measure this process and its machine.
        options |= {"auto_log_cpu": False, "auto_log_gpu": False}
        run = self.trackio.init(**options)
        if "run_id" in identity and run.id != identity["run_id"]:
            # Another run took the name, or nothing was logged before the process ended.
            run.id = identity["run_id"]
            last = run._safe_get_max_step_for_run() if run._is_local else None
            run._next_step = 0 if last is None else last + 1
        identity |= {"name": run.name, "run_id": run.id}
        if self.step is None:
            self.step = run._next_step
        return run

    def _log(self, metrics: dict[str, Any]) -> None:
        run = self._current_run()
        if self.step is None:
            self.step = run._next_step
        # A process that ended before it could keep its position has stored the row.
        if self.step >= run._next_step:
            self.trackio.log(metrics, step=self.step)
        self.step += 1
        self.has_logged = True

    def _store(self, run: Any) -> None:
        """Write what is queued: into the store, or into that of what is to be sent.

        Raises:
            NotStored: the row is not there.
        """
        with run._client_lock:
            run._flush_queues_inline()
        if not run._is_local:
            run._has_local_buffer = True
            return
        if run._storage_mode == "jsonl":
            return
        last, logged = self._last_step(run), (self.step or 0) - 1
        if last is None or last < logged:
            raise NotStored(
                f"Trackio did not store the row of step {logged} in project "
                f"{run.project}; its own message is in the callback's output"
            )

    @staticmethod
    def _last_step(run: Any) -> int | None:
        from trackio.sqlite_storage import SQLiteStorage

        last: int | None = SQLiteStorage.get_max_step_for_run(run.project, run.name, run_id=run.id)
        return last
