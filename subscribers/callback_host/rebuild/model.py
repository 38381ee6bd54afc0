"""In place of the model: class, configuration, text, counts and the table of its parameters."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from lineside.subscribers.callback_host.rebuild.live_objects import (
    LiveAttributeNeeded,
    LiveObjectNeeded,
    StandIn,
    named_class,
    names,
)
from lineside.subscribers.callback_host.rebuild.torch_values import device, dtype, shape

# What modules of torch, models of transformers and of PEFT can do.
_MODULE = names(
    "add_module apply bfloat16 buffers children compile cpu cuda double eval float forward "
    "get_buffer get_parameter get_submodule half load_state_dict modules named_buffers "
    "named_children named_modules named_parameters parameters register_backward_hook "
    "register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook "
    "register_full_backward_pre_hook register_module register_parameter requires_grad_ "
    "share_memory state_dict to to_empty train training type xpu zero_grad"
)
_PRETRAINED = names(
    "active_adapters add_adapter add_model_tags base_model device dequantize "
    "enable_input_require_grads floating_point_ops generate generation_config "
    "get_input_embeddings get_memory_footprint get_output_embeddings "
    "gradient_checkpointing_disable gradient_checkpointing_enable load_adapter "
    "num_parameters push_to_hub resize_token_embeddings save_pretrained "
    "set_adapter set_input_embeddings tie_weights"
)
_PEFT = names(
    "base_model delete_adapter disable_adapter get_base_model get_nb_trainable_parameters "
    "merge_adapter merge_and_unload print_trainable_parameters unload unmerge_adapter"
)
_ID_MAPS = ("id2label",)  # their keys are numbers, and names of a map on the wire are texts


def model_stand_in(facts: Mapping[str, Any], structure: Mapping[str, Any]) -> Any:
    """The model of the run whose ``run_start`` has these ``facts``; None if it has none.

    ``structure`` is the data of its event ``model``.
    """
    described = facts.get("model")
    if not isinstance(described, Mapping):
        return None
    model = {**described, **structure}
    bases = model.get("mro", ())
    kind = (
        PeftStandIn
        if "PeftModel" in bases
        else PretrainedStandIn
        if "PreTrainedModel" in bases
        else ModuleStandIn
    )
    place = (facts.get("args_properties") or {}).get("device")
    return named_class(kind, model.get("class"), model.get("module"))(model, place)


# Of each base of a model, the modules that have it: without torch transformers has a dummy.
_BASES = {
    "PeftModel": ("peft",),
    "PreTrainedModel": ("transformers.modeling_utils", "transformers.utils.dummy_pt_objects"),
    "Module": ("torch.nn",),
}


def _loaded_class(model: Any) -> Any:
    """The model's class for ``isinstance``, as far as the modules loaded here have it.

    Who asks has loaded the class that is asked for.
    """
    cls: Any = type(model)
    own = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
    if isinstance(own, type):
        return own
    for name, modules in _BASES.items():
        for module in modules:
            base = getattr(sys.modules.get(module), name, None)
            if name in model._bases and isinstance(base, type):
                return _named_like(cls, base)
    return cls


@cache
def _named_like(cls: type, base: type) -> type:
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    try:
        return type(base)(cls.__name__, (base,), namespace)
    except Exception:  # noqa: BLE001 - the base's own code
        return cls


class ModuleStandIn(StandIn):
    """A module that can be described, and neither run nor changed."""

    LIVE = _MODULE
    __class__ = property(_loaded_class)

    def __init__(self, model: Mapping[str, Any], place: Any = None) -> None:  # noqa: ARG002
        self._bases = frozenset(model.get("mro", ()))
        self._text = model.get("text")
        self._total, self._trainable = model.get("parameters"), model.get("trainable_parameters")
        self._rows = None if "table_rows" in model else _rows(model.get("table"))
        self._config_class = (model.get("config_class"), model.get("config_module"))
        self.set_config(model)
        peft = model.get("peft")
        if isinstance(peft, Mapping):
            self.peft_config = {name: _peft_config(one) for name, one in peft.items()}

    def set_config(self, model: Mapping[str, Any]) -> None:
        """Take the configuration in a description of the model, if it has one."""
        config, text = model.get("config"), model.get("config_json")
        if isinstance(config, Mapping):
            is_plain = text is None and "PreTrainedModel" not in self._bases
            self.config = config if is_plain else config_stand_in(config, text, *self._config_class)

    def named_parameters(self) -> Iterator[tuple[str, ParameterStandIn]]:
        """Names and descriptions of the parameters, if the description of all was sent."""
        if self._rows is None:
            raise LiveObjectNeeded(f"{type(self).__name__}.parameters()")
        return iter([(row.name, row) for row in self._rows])

    def parameters(self) -> Iterator[ParameterStandIn]:
        """Descriptions of the parameters."""
        return (row for _, row in self.named_parameters())

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise LiveObjectNeeded(f"{type(self).__name__}()")

    def __repr__(self) -> str:
        return self._text if isinstance(self._text, str) else super().__repr__()


class PretrainedStandIn(ModuleStandIn):
    """A ``PreTrainedModel``."""

    LIVE = _MODULE | _PRETRAINED

    def __init__(self, model: Mapping[str, Any], place: Any = None) -> None:
        super().__init__(model)
        if isinstance(place, str):
            self.device = device(place)
        for row in self._rows or ():
            if row.is_floating_point():
                self.dtype = row.dtype
                break

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many parameters it has."""
        count = self._trainable if only_trainable else self._total
        if count is None or exclude_embeddings:
            # An AttributeError: trackers go on without this number.
            raise LiveAttributeNeeded(f"{type(self).__name__}.num_parameters()")
        return int(count)


class PeftStandIn(PretrainedStandIn):
    """A ``PeftModel``, which offers what its base model does."""

    LIVE = _MODULE | _PRETRAINED | _PEFT

    def __init__(self, model: Mapping[str, Any], place: Any = None) -> None:
        super().__init__(model, place)
        self._peft_counts = model.get("peft_parameters")

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """How many parameters are trained, and how many there are."""
        if not isinstance(self._peft_counts, list):
            raise LiveAttributeNeeded(f"{type(self).__name__}.get_nb_trainable_parameters()")
        trained, total = self._peft_counts
        return trained, total


class ParameterStandIn(StandIn):
    """A parameter without its values."""

    LIVE = names(
        "abs all any clone cpu cuda data detach flatten float grad grad_fn histc isinf isnan item "
        "max mean min norm pow register_hook requires_grad_ square std sum to tolist var "
        "view"
    )

    def __init__(self, name: str, sizes: Sequence[int], kind: str, requires_grad: bool) -> None:
        self.name = name
        self.shape = shape(sizes)
        self.dtype = dtype(kind)
        self.requires_grad = requires_grad

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return math.prod(self.shape)

    nelement = numel

    def is_floating_point(self) -> bool:
        return "float" in str(self.dtype)


def _rows(table: Any) -> list[ParameterStandIn] | None:
    """A parameter for each row of the table; None if it is none."""
    try:
        return [ParameterStandIn(*row) for row in table]
    except TypeError:
        return None


class ConfigStandIn(StandIn):
    """A configuration, which converts to exactly what the training's own converted to."""

    def __init__(self, values: Mapping[str, Any], text: Any) -> None:
        self._values = values
        self._json = text
        for name, value in values.items():
            is_config = isinstance(value, Mapping) and "model_type" in value
            # A method, such as to_dict, is not hidden by a value of its name.
            if not hasattr(type(self), name):
                setattr(self, name, config_stand_in(value) if is_config else value)

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self._values))

    def to_diff_dict(self) -> dict[str, Any]:
        return dict(json.loads(self.to_json_string()))

    def to_json_string(self, use_diff: bool = True) -> str:
        if use_diff and isinstance(self._json, str):
            return self._json
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def config_stand_in(
    values: Any, text: Any = None, name: object = None, module: object = None
) -> Any:
    """A configuration of these ``values``, with its JSON as ``text`` where that is known."""
    if not isinstance(values, Mapping):
        return values
    restored = {key: _restored(key, value) for key, value in values.items()}
    return named_class(ConfigStandIn, name, module)(restored, text)


class _PeftConfig:
    """A ``PeftConfig``: a dataclass, which is how trackers read it."""

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(vars(self))


def _peft_config(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    name = "LoraConfig" if values.get("peft_type") == "LORA" else "PeftConfig"
    try:
        cls = dataclasses.make_dataclass(name, list(values), bases=(_PeftConfig,))
    except (TypeError, ValueError):  # a name that no field can have
        return config_stand_in(values)
    return cls(**values)


def _restored(name: str, value: Any) -> Any:
    if name in _ID_MAPS and isinstance(value, Mapping):
        return {int(key) if str(key).isdigit() else key: one for key, one in value.items()}
    return value
