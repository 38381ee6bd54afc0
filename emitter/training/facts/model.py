"""Reads the facts of a model. No data of its parameters is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lineside.emitter.spool.sanitize import LongText
from lineside.emitter.training.facts.collect import collect

_MOST_ROWS = 2_000  # of the table of parameters


def model_facts(model: Any) -> dict[str, Any]:
    """Class, bases, configuration, parameter counts and PEFT adapters."""
    bases = [base.__name__ for base in type(model).__mro__ if base is not object]
    parts: dict[str, Callable[[], Any]] = {
        "class": lambda: type(model).__name__,
        "module": lambda: type(model).__module__,
        "mro": lambda: bases,
        "config": lambda: _as_dict(model.config),
        "config_class": lambda: type(model.config).__name__,
        "config_module": lambda: type(model.config).__module__,
        "peft": lambda: {name: _as_dict(c) for name, c in model.peft_config.items()},
    }
    if not _is_one_shard(model):
        parts["parameters"] = lambda: sum(map(_parameter_count, model.parameters()))
        parts["trainable_parameters"] = lambda: sum(
            _parameter_count(parameter)
            for parameter in model.parameters()
            if parameter.requires_grad
        )
        parts["peft_parameters"] = lambda: list(model.get_nb_trainable_parameters())
    return collect(parts)


def model_structure(model: Any) -> dict[str, Any]:
    """The model as text, its configuration as JSON and a row for each of its parameters."""
    parts: dict[str, Callable[[], Any]] = {
        "text": lambda: LongText(repr(model)),
        "config_json": lambda: _config_json(model),
    }
    if not _is_one_shard(model):
        parts["table"] = lambda: _parameter_rows(model)
    structure = collect(parts)
    table = structure.get("table", [])
    if len(table) > _MOST_ROWS:
        structure["table"] = table[:_MOST_ROWS]
        structure["table_rows"] = len(table)
    return structure


def config_facts(model: Any) -> dict[str, Any]:
    """The model's configuration, as values and as JSON."""
    return collect(
        {"config": lambda: _as_dict(model.config), "config_json": lambda: _config_json(model)}
    )


def _config_json(model: Any) -> LongText:
    """The configuration without the values that are defaults."""
    return LongText(model.config.to_json_string())


def _is_one_shard(model: Any) -> bool:
    """Whether this rank sees only its own part of the model."""
    return any(base.__name__ == "FullyShardedDataParallel" for base in type(model).__mro__)


def _parameter_rows(model: Any) -> list[list[Any]]:
    """Name, shape, type and whether it is trained, of each parameter."""
    return [
        [
            name,
            list(getattr(parameter, "ds_shape", parameter.shape)),  # whole under DeepSpeed ZeRO-3
            str(parameter.dtype).removeprefix("torch."),
            parameter.requires_grad,
        ]
        for name, parameter in model.named_parameters()
    ]


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
