"""The ``TrainingArguments`` of a training, made again from their fields.

No constructor runs: bf16, tf32 and the like raise on a machine without the training's GPU.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from lineside.subscribers.callback_host.rebuild.live_objects import LiveAttributeNeeded
from lineside.subscribers.callback_host.rebuild.torch_values import device

_MAIN_MODULES = ("__main__", "__mp_main__")
# Of accelerate's part, in the order in which they are printed.
_ACCELERATOR_DEFAULTS: Mapping[str, Any] = {
    "split_batches": False,
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
    "non_blocking": False,
    "gradient_accumulation_kwargs": None,
    "use_configured_state": False,
}


def rebuild_arguments(facts: Mapping[str, Any]) -> Any:
    """The arguments of the run whose ``run_start`` has these ``facts``."""
    values = _mapping(facts.get("args"))
    properties = _mapping(facts.get("args_properties"))
    cls = arguments_class(_mapping(facts.get("args_class")), tuple(values), properties)
    hints = _type_hints(cls)
    args: Any = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(args, name, _restored(name, value, hints.get(name)))
    if "n_gpu" in properties:
        args._n_gpu = properties["n_gpu"]
    return args


def arguments_class(
    described: Mapping[str, Any], names: Sequence[str], properties: Mapping[str, Any]
) -> type:
    """A class with the name, module and bases of the training's, and fields of these ``names``.

    Its bases are the first class of the training's MRO that can be imported here, and all of that
    class's; a class of the training's own script cannot be imported.
    """
    base = _importable_base(described)
    name = described.get("name")
    if not isinstance(name, str):
        name = base.__name__
    namespace: dict[str, Any] = {
        "__module__": described.get("module", base.__module__),
        "__qualname__": name,
        "__doc__": base.__doc__,
        "__dataclass_fields__": _fields(base, names),
        "__getattr__": _missing_attribute,
        "to_dict": _to_dict,
    }
    for one, value in properties.items():
        namespace[one] = _property(one, value)
    return type(name, (base,), namespace)


def _importable_base(described: Mapping[str, Any]) -> Any:
    for path in described.get("mro", ()):
        module, _, name = str(path).rpartition(".")
        if not module or module in _MAIN_MODULES or module == "builtins":
            continue
        # Foreign code: what its import raises, or that it exits, is no matter here.
        with suppress(Exception, SystemExit):
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and issubclass(found, TrainingArguments):
                return found
    return TrainingArguments


def _fields(base: Any, names: Sequence[str]) -> dict[str, dataclasses.Field[Any]]:
    """Fields of these ``names`` and those of the base that no constructor takes, in its order."""
    inherited: dict[str, dataclasses.Field[Any]] = base.__dataclass_fields__
    order = [one for one, field in inherited.items() if field.init]
    first = inherited if list(names[: len(order)]) == order else {}
    hidden = {one: field for one, field in inherited.items() if not field.init}
    ours = {one: inherited[one] if one in inherited else _field(one) for one in names}
    return first | ours | hidden


def _field(name: str) -> dataclasses.Field[Any]:
    """A field of a class that cannot be imported."""

    @dataclasses.dataclass
    class _Holder:
        value: Any = None

    [field] = dataclasses.fields(_Holder)
    field.name = name
    return field


def _missing_attribute(args: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise LiveAttributeNeeded(f"{type(args).__name__}.{name}")


def _to_dict(args: Any) -> dict[str, Any]:
    converted = super(type(args), args).to_dict()
    return {
        name: value.to_dict() if isinstance(value, _NestedConfig) else value
        for name, value in converted.items()
    }


def _property(name: str, value: Any) -> property:
    restored = value
    if name == "device":
        restored = device(str(value))
    elif name == "parallel_mode":
        with suppress(ValueError):
            restored = ParallelMode(value)
    return property(lambda _: restored)


def _type_hints(cls: type) -> Mapping[str, Any]:
    """The types of the fields; one that cannot be resolved here takes no other with it."""
    hints: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, field in vars(base).get("__dataclass_fields__", {}).items():
            if known.get(name) is not field:  # else it is inherited
                known[name] = field
                hints[name] = _resolved(field.type, base.__module__)
    return hints


def _resolved(hint: Any, module: str) -> Any:
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    with suppress(Exception):  # foreign code: its field stays as it was sent
        return typing.get_type_hints(holder, vars(sys.modules[module]))["hint"]
    return None


def _restored(name: str, value: Any, hint: Any) -> Any:
    if name == "accelerator_config" and isinstance(value, Mapping):
        return _as_dataclass(_accelerator_class(), value)
    kinds = set(_classes_in(hint))
    enums = [kind for kind in kinds if issubclass(kind, enum.Enum)]
    if isinstance(value, list) and enums:
        return [_as_enum(one, enums) for one in value]
    if isinstance(value, str) and enums:
        return _as_enum(value, enums)
    if isinstance(value, dict):
        for kind in kinds:
            if dataclasses.is_dataclass(kind):
                return _as_dataclass(kind, value)
    return value


def _classes_in(hint: Any) -> typing.Iterator[type]:
    """The classes of which a value of this type hint may be."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        yield hint
    for part in typing.get_args(hint):
        yield from _classes_in(part)


def _as_enum(value: Any, kinds: Sequence[type[enum.Enum]]) -> Any:
    for kind in kinds:
        with suppress(ValueError):
            return kind(value)
    return value


def _as_dataclass(kind: type, values: Mapping[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


class _NestedConfig:
    """A part of the arguments whose class cannot be imported here."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def _accelerator_class() -> type:
    try:
        from transformers.trainer_pt_utils import AcceleratorConfig
    except ImportError:  # without torch
        return dataclasses.make_dataclass(
            "AcceleratorConfig",
            [(name, Any, default) for name, default in _ACCELERATOR_DEFAULTS.items()],
            bases=(_NestedConfig,),
        )
    return AcceleratorConfig  # type: ignore[no-any-return]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
