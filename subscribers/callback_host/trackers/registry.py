"""Which ``Tracker`` serves a callback."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import cast

from lineside.subscribers.callback_host.trackers.tracker import Tracker

TRACKERS: Mapping[str, str] = {
    "swanlab.integration.transformers.SwanLabCallback": "background.swanlab:SwanLab",
    "transformers.integrations.AzureMLCallback": "background.azureml:AzureML",
    "transformers.integrations.ClearMLCallback": "background.clearml:ClearML",
    "transformers.integrations.CodeCarbonCallback": "codecarbon:CodeCarbon",
    "transformers.integrations.CometCallback": "background.comet:Comet",
    "transformers.integrations.DVCLiveCallback": "dvclive:DVCLive",
    "transformers.integrations.DagsHubCallback": "dagshub:DagsHub",
    "transformers.integrations.KubeflowCallback": "kubeflow:Kubeflow",
    "transformers.integrations.MLflowCallback": "mlflow:MLflow",
    "transformers.integrations.NeptuneCallback": "background.neptune:Neptune",
    "transformers.integrations.TensorBoardCallback": "tensorboard:TensorBoard",
    "transformers.integrations.TrackioCallback": "trackio:Trackio",
    "transformers.integrations.WandbCallback": "wandb:Wandb",
}
"""``module:Class`` in this package for the class path of each callback that has a ``Tracker``."""

_STOCK_MODULE = "transformers.integrations.integration_utils."
_STOCK_PACKAGE = "transformers.integrations."


def tracker_of(class_path: str) -> type[Tracker]:
    """The ``Tracker`` of a callback; the base class if none is particular to it."""
    if class_path.startswith(_STOCK_MODULE):
        class_path = _STOCK_PACKAGE + class_path.removeprefix(_STOCK_MODULE)
    place = TRACKERS.get(class_path)
    if place is None:
        return Tracker
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return cast("type[Tracker]", found)


def missing_packages(class_path: str) -> list[str]:
    """The packages that a tracker needs and this interpreter does not have."""
    tracker = tracker_of(class_path)
    needed = () if tracker is Tracker else ("transformers", *tracker.packages)
    return [name for name in needed if not _is_installed(name)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor the package that it is in
        return False
