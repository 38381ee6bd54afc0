"""Any Python value as one that can be encoded: numbers stay numbers, the rest is described.

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

from lineside.emitter.spool.outside import comes_from_outside

UNENCODABLE = "!"
"""The one key of the map that stands for a value that could not be encoded."""
_REPR_CHARACTERS = 200
_ARRAY_ITEMS = 100
_PLAIN = frozenset({float, int, str, bool, type(None)})
# Reading one of these, even to print it, may wait for a device.
_DEVICE_LIBRARIES = frozenset({"torch", "jax", "jaxlib", "cupy", "tensorflow", "mlx", "torch_xla"})


def is_plain(values: object) -> bool:
    """Whether ``values`` is a dict of text to numbers, text or None, which goes out as it is."""
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


TIGHTER = (Limits(), Limits(8, 2_000, 1_024), Limits(4, 200, 128))
"""Limits to try one after the other; within the last everything fits one record."""


class Cleaner:
    """Turns values into None, bool, int, float, str, list and dict with text keys.

    ``lossy`` tells afterwards whether anything was cut or only described. A cleaner counts the
    values it has seen against its limits, so each event takes a fresh one.
    """

    def __init__(self, limits: Limits = TIGHTER[0]) -> None:
        self.lossy = False
        self._limits = limits
        self._left = limits.items

    def clean(self, value: Any, depth: int = 0) -> Any:
        """``value`` made encodable; never raises but what comes from outside."""
        kind = type(value)
        if kind is float or kind is bool or value is None:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < 1 << 64 else self._wide(value)
        if kind is str:
            return self._text(value)
        try:
            return self._clean_other(value, depth)
        except BaseException as error:  # foreign code: Rust panics are no Exception
            if comes_from_outside(error):
                raise
            return self._described(f"<{_name(kind)} that cannot be read>")

    def _clean_other(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.clean(value.value, depth)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self.clean(int(value), depth)
        if isinstance(value, (numbers.Real, Decimal)) and not _is_foreign(value):
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
        if _is_foreign(value):
            return self._array(value, depth)
        return self._described(repr(value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        if depth >= self._limits.depth:
            return self._described(f"<{_name(type(value))} nested too deeply>")
        kept: dict[str, Any] = {}
        for key, item in list(value.items()):
            if not self._take():
                break
            kept[self._text(key if type(key) is str else _key(key))] = self.clean(item, depth + 1)
        return kept

    def _sequence(self, value: Iterable[Any], depth: int) -> Any:
        if depth >= self._limits.depth:
            return self._described(f"<{_name(type(value))} nested too deeply>")
        kept: list[Any] = []
        for item in list(value):
            if not self._take():
                break
            kept.append(self.clean(item, depth + 1))
        return kept

    def _array(self, value: Any, depth: int) -> Any:
        """Of torch, NumPy and their kin: small ones in host memory are read, others described."""
        kind = type(value)
        if _name(kind) in ("torch.dtype", "torch.device"):
            return self._text(str(value).removeprefix("torch."))
        readable = kind.__module__.partition(".")[0] == "numpy" or _is_host_tensor(value)
        size = math.prod(getattr(value, "shape", ()))
        if readable and size == 1:
            item = value.item()
            # A long double's item is a long double again.
            return float(item) if type(item) is kind else self.clean(item, depth)
        if readable and size <= _ARRAY_ITEMS and hasattr(value, "tolist"):
            return self.clean(value.tolist(), depth)
        facts = " ".join(
            f"{name}={getattr(value, name)}"
            for name in ("shape", "dtype", "device")
            if hasattr(value, name)
        )
        return self._described(f"<{_name(kind)} {facts}>")

    def _text(self, value: str) -> str:
        if len(value) > self._limits.text:
            self.lossy = True
            value = f"{value[: self._limits.text]}… ({len(value)} characters)"
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="backslashreplace").decode()
        return value

    def _wide(self, value: int) -> Any:
        try:
            return float(value)
        except OverflowError:
            return self._described(f"<int of {value.bit_length()} bits>")

    def _take(self) -> bool:
        self._left -= 1
        if self._left < 0:
            self.lossy = True
        return self._left >= 0

    def _described(self, text: str) -> dict[str, str]:
        self.lossy = True
        return {UNENCODABLE: self._text(text[:_REPR_CHARACTERS])}


def _fields(value: Any) -> Mapping[str, Any]:
    """Of a dataclass; as it wants to be written down itself, if it says how."""
    if hasattr(value, "to_dict"):
        return dict(value.to_dict())
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _is_foreign(value: Any) -> bool:
    root = type(value).__module__.partition(".")[0]
    return root == "numpy" or root in _DEVICE_LIBRARIES


def _is_host_tensor(value: Any) -> bool:
    """A plain torch tensor in host memory. Not a subclass: reading a DTensor is a collective."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.device.type == "cpu"
    )


def _key(key: object) -> str:
    try:
        return str(key)
    except BaseException as error:  # a key's own code
        if comes_from_outside(error):
            raise
        return f"<{_name(type(key))}>"


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
