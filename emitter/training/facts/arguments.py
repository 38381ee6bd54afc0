"""Reads the facts of a TrainingArguments: fields, class, computed properties, trackers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from lineside.emitter.training.facts.collect import collect

_PROPERTIES = (
    "train_batch_size",
    "eval_batch_size",
    "world_size",
    "process_index",
    "local_process_index",
    "should_save",
    "should_log",
    "n_gpu",
    "place_model_on_device",
)
# Objects that are published as text.
_TEXT_PROPERTIES: dict[str, Callable[[Any], str]] = {
    "device": lambda args: str(args.device),
    "parallel_mode": lambda args: str(args.parallel_mode.value),
}


def argument_facts(args: Any) -> dict[str, Any]:
    """The fields of a TrainingArguments, those with a ``to_dict`` as dicts.

    Not by its own ``to_dict``, which changes nested dicts of the arguments (transformers 5.23).
    """
    if not dataclasses.is_dataclass(args):
        return dict(vars(args))
    names = [field.name for field in dataclasses.fields(args) if field.init]
    values = collect({name: partial(_read_field, args, name) for name in names})
    return {name: value[0] for name, value in values.items()}


def _read_field(args: Any, name: str) -> tuple[Any]:
    """The value of a field, or its names and values if it is an object like a GenerationConfig.

    In a tuple, because None is a value.
    """
    value = getattr(args, name)
    read = None if isinstance(value, type) else getattr(value, "to_dict", None)
    return (value if read is None else collect({"dict": read}).get("dict", value),)


def class_facts(cls: type) -> dict[str, Any]:
    """Module and name of a class, and the paths of its bases and itself."""
    return {
        "module": cls.__module__,
        "name": cls.__qualname__,
        "mro": [class_path(base) for base in cls.__mro__ if base is not object],
    }


def class_path(cls: type) -> str:
    """The path by which a class is imported: ``transformers.training_args.TrainingArguments``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def argument_properties(args: Any) -> dict[str, Any]:
    """What a TrainingArguments computes from its fields, the environment and the devices."""
    reads: dict[str, Callable[[Any], Any]] = {name: attrgetter(name) for name in _PROPERTIES}
    reads |= _TEXT_PROPERTIES
    return collect({name: partial(read, args) for name, read in reads.items()})


def reported_trackers(args: Any) -> list[str]:
    """The trackers of ``report_to``, in which the arguments have replaced "all" by names."""
    trackers = args.report_to
    return [trackers] if isinstance(trackers, str) else list(trackers or ())
