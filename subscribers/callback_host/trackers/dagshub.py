"""DagsHub: MLflow with DagsHub's server, and an upload of the output folder."""

from __future__ import annotations

from typing import ClassVar

from lineside.subscribers.callback_host.trackers.mlflow import MLflow
from lineside.subscribers.callback_host.trackers.tracker import HookCall


class DagsHub(MLflow):
    """Its callback leaves the MLflow run open; ``close`` ends it, with the status."""

    name: ClassVar[str] = "dagshub"
    packages: ClassVar[tuple[str, ...]] = ("dagshub", "mlflow")

    def before(self, call: HookCall) -> bool:
        super().before(call)
        return True  # its on_train_end uploads, and does not end the run
