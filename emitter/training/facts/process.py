"""Reads the facts of this process: identity, labels, machine, versions."""

from __future__ import annotations

import os
import platform
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from lineside.bus.settings import Settings
from lineside.emitter.training.facts.collect import collect
from lineside.emitter.training.identity import LABELS, Identity, Labels

_LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "trl",
    "datasets",
    "tokenizers",
    "deepspeed",
    "numpy",
)


def identity_facts(identity: Identity) -> dict[str, Any]:
    """Name, project and ranks, as in ``run_start``."""
    rank_info = identity.rank_info
    return {
        "name": identity.name,
        "project": identity.project,
        "producer": identity.stream.producer,
        "rank": rank_info.rank,
        "world_size": rank_info.world_size,
        "local_rank": rank_info.local_rank,
    }


def label_facts(labels: Labels, settings: Settings) -> dict[str, Any]:
    """Tags, group, notes and config, each as far as it is given."""
    # Each apart: a config that cannot be read takes no tag with it.
    return collect({name: partial(labels.fact, name, settings) for name in LABELS})


def process_facts() -> dict[str, Any]:
    """This process: pid, host, command line, executable, folder, Python's version."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "argv": list(sys.argv),
        "executable": sys.executable,
        "cwd": str(Path.cwd()),
        "python": platform.python_version(),
    }


def version_facts() -> dict[str, str]:
    """Versions of Lineside and of the libraries this process has loaded."""
    from importlib.metadata import version

    found = {"lineside": version("lineside")}
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "__version__"):
            found[name] = str(module.__version__)
    return found
