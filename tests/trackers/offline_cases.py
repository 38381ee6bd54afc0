"""More trackers whose stores are compared: those that keep a folder for a later upload."""

from __future__ import annotations

from tests.trackers import offline_stores as stores
from tests.trackers.cases import Case
from tests.trackers.stores import mlflow

_NO_SENTENCE = ""
_OF_PROCESS = "what the package collects of the training's process: output, load, packages"
_AFTER_TRAIN = "`evaluate()` after `train()` is there, which in-process is dropped"

OFFLINE_CASES = (
    Case(
        "comet",
        "comet-ml",
        lambda folder: {
            "COMET_START_ONLINE": "false",
            "COMET_OFFLINE_DIRECTORY": str(folder / "comet"),
        },
        lambda folder: stores.comet(folder / "comet"),
        {
            "points/sys.*": _OF_PROCESS,
            "kind/*": _OF_PROCESS,
            "parameter/run_arg*": _NO_SENTENCE,
            "*/process duration": _NO_SENTENCE,
        },
    ),
    Case(
        "clearml",
        "clearml",
        lambda folder: {
            "CLEARML_OFFLINE_MODE": "1",
            "CLEARML_CACHE_DIR": str(folder / "clearml"),
            # Offline, its upload of a checkpoint raises AttributeError, in-process as well.
            "CLEARML_LOG_MODEL": "FALSE",
        },
        lambda folder: stores.clearml(folder / "clearml"),
        {
            "script/*": "the source, packages and parsed arguments of the script",
            "parameter/Args/*": "the source, packages and parsed arguments of the script",
            "points/:monitor:*": _NO_SENTENCE,  # in-process, if the training is long enough
            "points/eval/*": _AFTER_TRAIN,
            "Summary/epoch": _NO_SENTENCE,
        },
    ),
    Case(
        "swanlab",
        "swanlab",
        lambda folder: {
            "SWANLAB_MODE": "offline",
            "SWANLAB_LOG_DIR": str(folder / "swanlab"),
        },
        lambda folder: stores.swanlab(folder / "swanlab"),
        {
            "console": _OF_PROCESS,
            "file/*": _OF_PROCESS,
            "points/__swanlab__*": _NO_SENTENCE,  # in-process, if the training is long enough
        },
    ),
    Case(
        "codecarbon",
        "codecarbon",
        lambda folder: {"CODECARBON_OUTPUT_FILE": f"{folder.name}.csv"},
        lambda folder: stores.codecarbon(folder.parent / "training/output" / f"{folder.name}.csv"),
    ),
    Case(
        "dagshub",
        "dagshub",
        lambda folder: {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/owner/repository.db",
            "DAGSHUB_USER_TOKEN": "unused",
        },
        lambda folder: mlflow(f"sqlite:///{folder}/owner/repository.db"),
        {"later/*": _NO_SENTENCE, "tag/lineside.run": "the tag `lineside.run`"},
        loss="loss",
    ),
)
