"""The stock trackers that are measured, each without a server: in files of a folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MODULES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "comet": "comet_ml",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "codecarbon": "codecarbon",
    "swanlab": "swanlab",
}
"""Short names, and the module of each tracker's package."""


def installed() -> list[str]:
    """The trackers that can be measured here."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module)]


def package(name: str) -> str:
    """The distribution of a tracker."""
    return MODULES[name].replace("_", "-")


def environment(folder: Path) -> dict[str, str]:
    """Variables with which each tracker writes into ``folder`` and sends nothing."""
    return {
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(folder / "comet"),
        "CLEARML_OFFLINE_MODE": "1",
        "SWANLAB_MODE": "offline",
        "CODECARBON_LOG_LEVEL": "error",
    }
