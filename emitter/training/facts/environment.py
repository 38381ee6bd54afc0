"""Reads the environment variables that configure trackers, and none that may hold a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote_plus

from lineside.emitter.redaction.names import is_secret_name
from lineside.emitter.redaction.text import redact_text

PREFIXES = (
    "AZUREML_",
    "CLEARML_",
    "CODECARBON_",
    "COMET_",
    "DAGSHUB_",
    "DVCLIVE_",
    "FLYTE_",
    "HF_DAGSHUB_",
    "HF_DVCLIVE_",
    "HF_MLFLOW_",
    "KUBEFLOW_",
    "LLAMABOARD_",
    "MLFLOW_",
    "NEPTUNE_",
    "SWANLAB_",
    "TENSORBOARD_",
    "TRACKIO_",
    "WANDB_",
)
"""What the names of a tracker's variables begin with."""
NAMES = frozenset(
    {
        "BRANCH",  # DagsHub's
        "DISABLE_KUBEFLOW_INTEGRATION",
        "DISABLE_MLFLOW_INTEGRATION",
        "RECORD_VRAM",  # LLaMA-Factory's
    }
)
"""A tracker's variables with other names."""
# An SDK sets these for its own child processes; in another process they point at a stranger.
_OF_THE_PROCESS = frozenset({"CLEARML_PROC_MASTER_ID", "WANDB_SERVICE", "WANDB_X_SERVICE"})
_USER_OF_ADDRESS = re.compile(r"(?<=//)[^\s/?#]*@")
_PASSWORD_OF_USER = re.compile(r"[^\s/:@]+:[^\s/@]+@")  # of an address without a scheme
_MOST_CHARACTERS = 4_096  # a longer value is left out: a part of it would be another value


def tracker_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that configure trackers, by name.

    Addresses come without user and password. A variable is left out if its name is that of a
    secret, or if its value holds one.
    """
    found = os.environ if environment is None else environment
    return {
        name: without_user
        for name, value in sorted(found.items())
        if (name in NAMES or name.startswith(PREFIXES))
        and name not in _OF_THE_PROCESS
        and not _is_secret_name(name)
        and len(value) <= _MOST_CHARACTERS
        and _is_harmless(f"{name}={(without_user := _USER_OF_ADDRESS.sub('', value))}")
    }


def _is_secret_name(name: str) -> bool:
    # A variable is no vocabulary: DAGSHUB_USER_TOKEN is an account's. Headers authenticate.
    return is_secret_name(name) or name.endswith(("TOKEN", "TOKENS", "HEADERS"))


def _is_harmless(setting: str) -> bool:
    # An address may hold another one, percent-encoded: ``?odbc_connect=UID%3D...``.
    return not _PASSWORD_OF_USER.search(setting) and all(
        redact_text(text) == text for text in (setting, unquote_plus(setting))
    )
