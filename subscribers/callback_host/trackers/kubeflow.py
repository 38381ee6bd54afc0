"""Kubeflow Trainer: progress of the TrainJob that the stack belongs to."""

from __future__ import annotations

from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.tracker import HookCall, Tracker


class Kubeflow(Tracker):
    """Kubeflow's controller holds the newest report only, so a resend changes nothing.

    The throttle of a report in 5 seconds and the remaining time use this machine's clock.
    """

    name: ClassVar[str] = "kubeflow"

    def before(self, call: HookCall) -> bool:
        if call.hook != "on_train_begin" or self._began().get("attempt") != self.run.attempt:
            return True
        # This attempt's training has begun before: another report of 0 % would be false.
        callback: Any = call.callback
        callback._start_time = self._began()["time"]
        callback._metrics = dict(self._began()["metrics"])
        callback._initialized = True
        return False

    def after(self, call: HookCall) -> None:
        callback: Any = call.callback
        if call.hook == "on_train_begin" and self._began().get("attempt") != self.run.attempt:
            callback._start_time = call.event.time
            began = {"attempt": self.run.attempt, "time": call.event.time, "metrics": {}}
            self.run.identity["began"] = began
        elif call.hook == "on_log":
            self._began()["metrics"] = dict(callback._metrics)

    def _began(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run.identity.setdefault("began", {})
        return found
