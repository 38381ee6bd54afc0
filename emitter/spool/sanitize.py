"""Makes any Python value encodable: numbers stay numbers, the rest is described.

Nothing here waits for a GPU: a tensor that is not in host memory is described, never read.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import numbers
import os
import sys
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from typing import Any

from lineside.emitter.spool.script_errors import is_script_error

UNENCODABLE = "!"
"""The only key of the map that replaces a value which cannot be encoded."""
_REPR_CHARACTERS = 200
_ARRAY_ITEMS = 100
_PLAIN = frozenset({float, int, str, bool, type(None)})
# Reading one of these, even to print it, may wait for a device.
_DEVICE_LIBRARIES = frozenset({"torch", "jax", "jaxlib", "cupy", "tensorflow", "mlx", "torch_xla"})


def is_plain(values: object) -> bool:
    """Whether ``values`` is a dict of text to numbers, text or None, which needs no change."""
    if type(values) is not dict:
        return False
    for key, value in values.items():
        if type(value) not in _PLAIN or type(key) is not str:
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much of a value is kept: nesting levels, values in all, characters of each text."""

    depth: int = 16
    items: int = 20_000
    text: int = 16_384


LIMITS_BY_SIZE = (Limits(), Limits(8, 2_000, 1_024), Limits(4, 200, 128))
"""Limits to try in this order; within the last, any value fits one record."""


class Sanitizer:
    """Turns values into None, bool, int, float, str, list and dict with text keys.

    ``lossy`` is True afterwards if anything was cut or only described. A sanitizer counts values
    against its limits, so each event takes a new one.
    """

    def __init__(self, limits: Limits = LIMITS_BY_SIZE[0]) -> None:
        self.lossy = False
        self._limits = limits
        self._remaining = limits.items

    def sanitize(self, value: Any, depth: int = 0) -> Any:
        """``value`` made encodable; raises only the script's own exceptions."""
        cls = type(value)
        if cls is float or cls is bool or value is None:
            return value
        if cls is int:
            return value if -(1 << 63) <= value < 1 << 64 else self._large_int(value)
        if cls is str:
            return self._text(value)
        try:
            return self._sanitize_other(value, depth)
        except BaseException as error:  # foreign code: Rust panics are no Exception
            if is_script_error(error):
                raise
            return self._placeholder(f"<{_type_name(cls)} that cannot be read>")

    def _sanitize_other(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.sanitize(value.value, depth)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self.sanitize(int(value), depth)
        if isinstance(value, (numbers.Real, Decimal)) and not _is_array_type(value):
            return float(value)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._mapping(_fields(value), depth)
        if isinstance(value, (list, tuple, Set)):
            return self._sequence(value, depth)
        if isinstance(value, os.PathLike):
            return self._text(os.fsdecode(value))
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        if _is_array_type(value):
            return self._array(value, depth)
        return self._placeholder(repr(value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        if depth >= self._limits.depth:
            return self._placeholder(f"<{_type_name(type(value))} nested too deeply>")
        result: dict[str, Any] = {}
        for key, item in list(value.items()):
            if not self._count_item():
                break
            result[self._text(key if type(key) is str else _key_text(key))] = self.sanitize(
                item, depth + 1
            )
        return result

    def _sequence(self, value: Iterable[Any], depth: int) -> Any:
        if depth >= self._limits.depth:
            return self._placeholder(f"<{_type_name(type(value))} nested too deeply>")
        result: list[Any] = []
        for item in list(value):
            if not self._count_item():
                break
            result.append(self.sanitize(item, depth + 1))
        return result

    def _array(self, value: Any, depth: int) -> Any:
        """Read a small array in host memory, describe any other."""
        cls = type(value)
        if _type_name(cls) in ("torch.dtype", "torch.device"):
            return self._text(str(value).removeprefix("torch."))
        readable = cls.__module__.partition(".")[0] == "numpy" or _is_host_tensor(value)
        size = math.prod(getattr(value, "shape", ()))
        if readable and size == 1:
            item = value.item()
            # A long double's item is a long double again.
            return float(item) if type(item) is cls else self.sanitize(item, depth)
        if readable and size <= _ARRAY_ITEMS and hasattr(value, "tolist"):
            return self.sanitize(value.tolist(), depth)
        facts = " ".join(
            f"{name}={getattr(value, name)}"
            for name in ("shape", "dtype", "device")
            if hasattr(value, name)
        )
        return self._placeholder(f"<{_type_name(cls)} {facts}>")

    def _text(self, value: str) -> str:
        if len(value) > self._limits.text:
            self.lossy = True
            value = f"{value[: self._limits.text]}… ({len(value)} characters)"
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="backslashreplace").decode()
        return value

    def _large_int(self, value: int) -> Any:
        try:
            return float(value)
        except OverflowError:
            return self._placeholder(f"<int of {value.bit_length()} bits>")

    def _count_item(self) -> bool:
        self._remaining -= 1
        if self._remaining < 0:
            self.lossy = True
        return self._remaining >= 0

    def _placeholder(self, text: str) -> dict[str, str]:
        self.lossy = True
        return {UNENCODABLE: self._text(text[:_REPR_CHARACTERS])}


def _fields(value: Any) -> Mapping[str, Any]:
    """The fields of a dataclass, by its own ``to_dict`` if it has one."""
    if hasattr(value, "to_dict"):
        return dict(value.to_dict())
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _is_array_type(value: Any) -> bool:
    root = type(value).__module__.partition(".")[0]
    return root == "numpy" or root in _DEVICE_LIBRARIES


def _is_host_tensor(value: Any) -> bool:
    """Whether it is a plain torch tensor in host memory.

    Subclasses do not count: reading a DTensor is a collective.
    """
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.device.type == "cpu"
    )


def _key_text(key: object) -> str:
    try:
        return str(key)
    except BaseException as error:  # a key's own code
        if is_script_error(error):
            raise
        return f"<{_type_name(type(key))}>"


def _type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
