"""Neptune: one run for each training, continued by its id."""

from __future__ import annotations

from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.background.delivery import BackgroundTracker
from lineside.subscribers.callback_host.trackers.tracker import HookCall, RunEnd


class Neptune(BackgroundTracker):
    """Neptune 1.x with a server that still answers; the company's own is gone."""

    name: ClassVar[str] = "neptune"
    packages: ClassVar[tuple[str, ...]] = ("neptune",)

    def created(self, callback: Any) -> None:
        known = self.run.identity.get("run_id")
        initialize = callback._initialize_run

        def initialize_run(**given: Any) -> None:
            if known and not given.get("with_id"):
                given["with_id"] = known
            initialize(**given)

        callback._initialize_run = initialize_run

    def after(self, call: HookCall) -> None:
        super().after(call)
        if call.callback._run_id is not None:
            self.run.identity["run_id"] = call.callback._run_id

    def flush(self, callback: Any) -> None:
        if callback._run is not None:
            callback._run.wait()

    def close(self, callback: Any, end: RunEnd) -> None:
        if end.status in ("failed", "lost") and callback._run_id is not None:
            callback.run["sys/failed"] = True
        callback._stop_run_if_exists()
