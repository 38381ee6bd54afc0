"""Azure Machine Learning: metrics of the job whose variables the stack has."""

from __future__ import annotations

from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.background.delivery import BackgroundTracker
from lineside.subscribers.callback_host.trackers.tracker import RunEnd


class AzureML(BackgroundTracker):
    """Azure ML. ``AZUREML_RUN_ID`` and its token name the run, so every process has the same."""

    name: ClassVar[str] = "azureml"
    packages: ClassVar[tuple[str, ...]] = ("azureml",)

    def flush(self, callback: Any) -> None:
        # Outside a job, get_context() gives a run that prints, and has no client.
        if hasattr(callback.azureml_run, "_client"):
            callback.azureml_run.flush()

    def close(self, callback: Any, end: RunEnd) -> None:
        self.flush(callback)
