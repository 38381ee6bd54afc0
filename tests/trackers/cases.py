"""The trackers whose stores are compared: where each twin writes, and what may differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.trackers import stores
from tests.trackers.comparison import Record

_NO_SENTENCE = ""
"""For what differs by the test: names of stores, times at which they were made."""


@dataclass(frozen=True)
class Case:
    """``variables`` makes a callback write below a folder, where ``read`` finds the store."""

    name: str
    package: str
    variables: Callable[[Path], Mapping[str, str]]
    read: Callable[[Path], Record]
    explained: Mapping[str, str] = field(default_factory=dict)
    """A sentence for each pattern of what differs; see ``comparison.result``."""
    loss: str = "train/loss"
    """Its name for the loss that is logged at each step."""
    is_in_working_folder: bool = False
    """Whether the hosted twin writes into the training's working folder."""

    def entry(self, folder: Path) -> dict[str, Any]:
        """The entry of the callback host that writes below ``folder``."""
        return {"name": self.name, "id": self.name, "environment": dict(self.variables(folder))}


CASES = (
    Case(
        "tensorboard",
        "tensorboard",
        lambda folder: {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")},
        lambda folder: stores.tensorboard(folder / "tensorboard"),
    ),
    Case(
        "wandb",
        "wandb",
        lambda folder: {"WANDB_DIR": str(folder)},
        stores.wandb,
        {"summary/_runtime": _NO_SENTENCE, "summary/_timestamp": _NO_SENTENCE},
    ),
    Case(
        "mlflow",
        "mlflow",
        lambda folder: {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        lambda folder: stores.mlflow(f"sqlite:///{folder}/mlflow.db"),
        {
            "later/*": _NO_SENTENCE,
            "runs": "`evaluate()` after `train()` goes to the same run, in-process to another",
            "tag/lineside.run": "the tag `lineside.run`",
        },
        loss="loss",
    ),
    Case(
        "trackio",
        "trackio",
        lambda folder: {"TRACKIO_DIR": str(folder / "trackio")},
        lambda folder: stores.trackio(folder / "trackio"),
        {"config/_Created": _NO_SENTENCE},
    ),
    Case(
        "dvclive",
        "dvclive",
        lambda folder: {"TWIN_DVCLIVE": str(folder)},
        lambda folder: stores.dvclive(folder / "dvclive"),
        loss="loss",
        is_in_working_folder=True,
    ),
)
