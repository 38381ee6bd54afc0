"""Reads the facts of a Trainer and its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lineside.emitter.training.facts.arguments import (
    argument_facts,
    argument_properties,
    class_facts,
    class_path,
    reported_trackers,
)
from lineside.emitter.training.facts.collect import collect
from lineside.emitter.training.facts.data import loader_facts, processing_facts
from lineside.emitter.training.facts.environment import tracker_environment
from lineside.emitter.training.facts.model import model_facts
from lineside.emitter.training.facts.optimizer import optimizer_facts
from lineside.emitter.training.facts.process import process_facts, version_facts

STATE_SCALARS = (
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


def state_facts(state: Any) -> dict[str, Any]:
    """The scalars of a TrainerState. Its log history is published by ``log`` events."""
    scalars = {name: getattr(state, name) for name in STATE_SCALARS if hasattr(state, name)}
    if scalars.get("best_model_checkpoint"):  # relative if ``output_dir`` is
        scalars["best_model_checkpoint"] = str(Path(scalars["best_model_checkpoint"]).absolute())
    return scalars


_MOST_HISTORY_VALUES = 16_000  # an event has 20,000
TAKEN_OVER = "_lineside_taken_over"
"""The attribute of a CallbackHandler that names the trackers which run beside the training."""


def history_facts(state: Any) -> dict[str, Any]:
    """The newest logs of a resumed state, as many as an event holds; empty without any."""
    values, kept = 0, []
    for entry in reversed(state.log_history or ()):
        values += 1 + len(entry)
        if values > _MOST_HISTORY_VALUES:
            break
        kept.append(entry)
    if not kept:
        return {}
    left_out = len(state.log_history) - len(kept)
    history = {"log_history": kept[::-1]}
    return history | {"log_history_left_out": left_out} if left_out else history


def trainer_facts(
    args: Any,
    state: Any,
    kwargs: Mapping[str, Any],
    resumed_state: Mapping[str, str],
    trainer: Any,
    *,
    is_rank_0: bool,
) -> dict[str, Any]:
    """The facts of a Trainer for ``run_start``; other ranks leave out what is equal on all.

    ``resumed_state`` is what was kept for the checkpoint that it resumes from. ``trainer`` is None
    if it is not known.
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
            "environment": tracker_environment,
            "args": lambda: argument_facts(args),
            "args_class": lambda: class_facts(type(args)),
            "args_properties": lambda: argument_properties(args),
            "report_to": lambda: reported_trackers(args),
            "model": lambda: model_facts(kwargs["model"]),
            "optimizer": lambda: optimizer_facts(kwargs["optimizer"], kwargs.get("lr_scheduler")),
            "processing": lambda: processing_facts(kwargs["processing_class"]),
            "loaders": lambda: {
                n: loader_facts(one) for n, one in loaders.items() if one is not None
            },
        }
        if trainer is not None:
            parts |= {
                "trainer": lambda: {"class": type(trainer).__name__},
                "callbacks": lambda: [
                    class_path(type(one)) for one in trainer.callback_handler.callbacks
                ],
                "taken_over": lambda: list(getattr(trainer.callback_handler, TAKEN_OVER)),
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
