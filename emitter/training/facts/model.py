"""Reads the facts of a model. No data of its parameters is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lineside.emitter.training.facts.collect import collect


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
