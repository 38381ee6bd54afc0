"""MLflow: synchronous, with the times of the events, in one run with a true status."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.module_proxy import ModuleProxy
from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun, RunEnd, Tracker

RUN_TAG = "lineside.run"
"""The tag with Lineside's run id, by which a crashed process finds the run that it had made."""
_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "lost": "KILLED"}
_RETRIED = (401, 403, 408, 425, 429)  # and all from 500: the server's, its key's or its load's


class MLflow(Tracker):
    """Sends each value with the event's time, so a value that is sent again is the same row."""

    name: ClassVar[str] = "mlflow"
    packages: ClassVar[tuple[str, ...]] = ("mlflow",)

    def __init__(self, run: HostedRun) -> None:
        super().__init__(run)
        self.now = run.started_at
        self.mlflow: Any = None

    def environment(self) -> dict[str, str]:
        values = {
            # The host tries again for ever, so a try of MLflow's own need not take minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            # It would measure this process and its machine.
            "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        }
        if "run_id" in self.run.identity:
            values["MLFLOW_RUN_ID"] = self.run.identity["run_id"]
        return values

    def created(self, callback: Any) -> None:
        module: Any = sys.modules[type(callback).__module__]
        if not hasattr(module, "torch"):
            # The callback names torch.Tensor for every value that is no number.
            module.torch = SimpleNamespace(Tensor=_NoTensor)
        self.mlflow = callback._ml_flow
        callback._ml_flow = ModuleProxy(
            self.mlflow,
            start_run=self._start_run,
            log_metrics=self._log_metrics,
            log_params=self._log_params,
        )

    def before(self, call: HookCall) -> bool:
        self.now = call.event.time
        # ``close`` ends the run: until then evaluate() may add values.
        return call.hook != "on_train_end"

    def is_delivery_error(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            code = error.get_http_status_code()
            return code >= 500 or code in _RETRIED
        return isinstance(error, (OSError, TimeoutError))

    def close(self, callback: Any, end: RunEnd) -> None:
        run_id = self.run.identity.get("run_id")
        if run_id is None:
            return
        client = self.mlflow.MlflowClient()
        client.set_terminated(run_id, status=_STATUS[end.status], end_time=_milliseconds(end.time))
        # Nothing is left for atexit, which would set the run to FINISHED.
        while self.mlflow.active_run() is not None:
            self.mlflow.end_run(_STATUS[end.status])

    def _start_run(self, **options: Any) -> Any:
        run_id = self.run.identity.get("run_id") or self._find_run()
        if run_id is None:
            tags = {**(options.pop("tags", None) or {}), RUN_TAG: self.run.id}
            argv = self.run.facts.get("process", {}).get("argv")
            if argv:
                tags["mlflow.source.name"] = argv[0]
            run = self.mlflow.start_run(tags=tags, **options)
        else:
            run = self.mlflow.start_run(run_id=run_id, nested=options.get("nested", False))
        self.run.identity["run_id"] = run.info.run_id
        return run

    def _find_run(self) -> str | None:
        """The run that an earlier process made, but ended before it could keep the id."""
        client = self.mlflow.MlflowClient()
        from mlflow.tracking.fluent import _get_experiment_id

        found = client.search_runs(
            [_get_experiment_id()], f"tags.`{RUN_TAG}` = '{self.run.id}'", max_results=1
        )
        return found[0].info.run_id if found else None

    def _log_metrics(self, metrics: dict[str, float], step: int, **_: Any) -> None:
        if metrics:
            self.mlflow.log_metrics(
                metrics,
                step=step,
                synchronous=True,
                timestamp=_milliseconds(self.now),
                run_id=self.run.identity["run_id"],
            )

    def _log_params(self, params: dict[str, Any], **_: Any) -> None:
        """Log what is not there yet: MLflow changes no parameter, and a later attempt's may
        differ."""
        run_id = self.run.identity["run_id"]
        known = self.mlflow.MlflowClient().get_run(run_id).data.params
        new = {name: value for name, value in params.items() if name not in known}
        if new:
            self.mlflow.log_params(new, synchronous=True, run_id=run_id)


class _NoTensor:
    """What no value is an instance of."""


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
