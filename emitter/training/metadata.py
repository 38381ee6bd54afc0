"""Reads the facts of a run once: process, versions, arguments, model, loaders, state.

A fact that cannot be read is left out. Data is never iterated, and the environment is never sent.
``SpoolWriter`` makes the facts encodable and redacts their secrets.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lineside.bus.settings import Settings
from lineside.emitter.spool.script_errors import is_script_error
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
_STATE_SCALARS = (
    "max_steps",
    "num_train_epochs",
    "total_flos",
    "num_input_tokens_seen",
    "best_metric",
    "best_global_step",
    "best_model_checkpoint",
    "train_batch_size",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "is_hyper_param_search",
    "trial_name",
    "trial_params",
    "is_local_process_zero",
    "is_world_process_zero",
)
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")


def collect(parts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The value of each part, without parts that raise or are None.

    Raises only exceptions of the script, such as KeyboardInterrupt.
    """
    known: dict[str, Any] = {}
    for name, read in parts.items():
        try:
            value = read()
        except BaseException as error:  # foreign code: a Rust panic is no Exception
            if is_script_error(error):
                raise
            continue
        if value is not None:
            known[name] = value
    return known


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


def state_facts(state: Any) -> dict[str, Any]:
    """The scalars of a TrainerState. Its log history is published by ``log`` events."""
    scalars = {name: getattr(state, name) for name in _STATE_SCALARS if hasattr(state, name)}
    if scalars.get("best_model_checkpoint"):  # relative if ``output_dir`` is
        scalars["best_model_checkpoint"] = str(Path(scalars["best_model_checkpoint"]).absolute())
    return scalars


def argument_facts(args: Any) -> dict[str, Any]:
    """The fields of a TrainingArguments.

    Not by its ``to_dict``, which changes nested dicts of the arguments (transformers 5.23).
    """
    if not dataclasses.is_dataclass(args):
        return dict(vars(args))
    return {
        field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.init
    }


def model_facts(model: Any) -> dict[str, Any]:
    """Class, bases, configuration, parameter counts (no data is touched) and PEFT adapters."""
    bases = [base.__name__ for base in type(model).__mro__ if base is not object]
    parts: dict[str, Callable[[], Any]] = {
        "class": lambda: type(model).__name__,
        "mro": lambda: bases,
        "config": lambda: _as_dict(model.config),
        "peft": lambda: {name: _as_dict(c) for name, c in model.peft_config.items()},
    }
    # A rank sees only its own part of a sharded model.
    if "FullyShardedDataParallel" not in bases:
        parts["parameters"] = lambda: sum(map(_parameter_count, model.parameters()))
        parts["trainable_parameters"] = lambda: sum(
            _parameter_count(parameter)
            for parameter in model.parameters()
            if parameter.requires_grad
        )
    return collect(parts)


def processing_facts(processing: Any) -> dict[str, Any]:
    """Class and size of a tokenizer, image processor or the like."""
    names = ("name_or_path", "vocab_size", "model_max_length", "padding_side", "is_fast")
    return collect(
        {
            "class": lambda: type(processing).__name__,
            **{name: lambda name=name: getattr(processing, name) for name in names},  # type: ignore[misc]
        }
    )


def loader_facts(loader: Any) -> dict[str, Any]:
    """Length, batch size, workers and dataset of a DataLoader, which is not iterated."""
    return collect(
        {
            "class": lambda: type(loader).__name__,
            "length": lambda: len(loader),
            "batch_size": lambda: loader.batch_size,
            "workers": lambda: loader.num_workers,
            "dataset": lambda: type(loader.dataset).__name__,
            "dataset_length": lambda: len(loader.dataset),
        }
    )


def trainer_facts(
    args: Any,
    state: Any,
    kwargs: Mapping[str, Any],
    resumed_state: Mapping[str, str],
    trainer_class: str,
    *,
    is_rank_0: bool,
) -> dict[str, Any]:
    """The facts of a Trainer for ``run_start``; other ranks leave out what is equal on all.

    ``resumed_state`` is what was kept for the checkpoint that it resumes from.
    """
    parts: dict[str, Callable[[], Any]] = {
        "process": process_facts,
        "versions": version_facts,
        "state": lambda: state_facts(state),
        "resumed_from": lambda: resumed_from(state, resumed_state),
    }
    if is_rank_0:
        loaders = {name: kwargs.get(f"{name}_dataloader") for name in ("train", "eval")}
        parts |= {
            "trainer": lambda: {"class": trainer_class} if trainer_class else None,
            "args": lambda: argument_facts(args),
            "model": lambda: model_facts(kwargs["model"]),
            "processing": lambda: processing_facts(kwargs["processing_class"]),
            "loaders": lambda: {
                n: loader_facts(one) for n, one in loaders.items() if one is not None
            },
        }
    return {"resumed_from": None} | collect(parts)


def resumed_from(state: Any, resumed_state: Mapping[str, str]) -> dict[str, Any] | None:
    """The run, attempt and step that training resumes from; None if it starts anew.

    Run and attempt are None if the checkpoint was written without Lineside.
    """
    if not state.global_step:
        return None
    return {
        "run": resumed_state.get("run_id"),
        "attempt": resumed_state.get("attempt"),
        "step": state.global_step,
    }


def checkpoint_path(args: Any, state: Any) -> str:
    """Absolute path of the checkpoint that was just saved.

    A hyperparameter trial saves below a folder whose name no callback receives, so this is the
    newest checkpoint of the step.
    """
    output = Path(args.output_dir).absolute()
    name = f"checkpoint-{state.global_step}"
    if getattr(state, "is_hyper_param_search", False):
        saved = [path for path in output.glob(f"*/{name}") if path.is_dir()]
        if saved:
            return str(max(saved, key=lambda path: path.stat().st_mtime))
    return str(output / name)


class CheckpointFolder:
    """Looks again and again at a folder of checkpoints, from which rotation and people delete."""

    def __init__(self) -> None:
        self._folder = Path()
        self._steps: frozenset[int] = frozenset()

    def facts(self, folder: Path, resumed_step: int = 0) -> dict[str, Any]:
        """``checkpoints`` in ``folder``; empty unless one that was there before is gone.

        If training resumes from one of them, earlier processes have reported the others, so what
        the folder holds now is reported too.
        """
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            names = []
        except OSError:
            return {}
        matches = map(_CHECKPOINT.fullmatch, names)
        steps = frozenset(int(match[1]) for match in matches if match is not None)
        before = self._steps if folder == self._folder else frozenset()
        self._folder, self._steps = folder, steps
        if before <= steps and resumed_step not in steps:
            return {}
        return {"checkpoints": {"folder": str(folder), "steps": sorted(steps)}}


def _as_dict(config: Any) -> Any:
    return config.to_dict() if hasattr(config, "to_dict") else config


def _parameter_count(parameter: Any) -> int:
    """Elements of a parameter: all shards under DeepSpeed ZeRO-3, unpacked if 4-bit."""
    sharded = getattr(parameter, "ds_numel", None)
    if sharded is not None:
        return int(sharded)
    count = int(parameter.numel())
    return (
        count * 2 * parameter.element_size() if type(parameter).__name__ == "Params4bit" else count
    )
