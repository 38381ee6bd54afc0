"""Makes any Python value encodable and free of secrets: numbers stay numbers.

``SpoolWriter`` applies it to the data of each event, so nothing leaves the process without it.
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
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from typing import Any

from lineside.bus.protocol.fields import INT_MAX, is_epoch
from lineside.emitter.redaction.text import (
    REDACTED,
    begins_key_block,
    ends_key_block,
    redact_text,
)
from lineside.emitter.redaction.values import mask_names
from lineside.emitter.spool.script_errors import is_script_error

UNENCODABLE = "!"
"""The key of a remark in place of a value: alone in a map, why the value is not here; beside
other names, or in a map at the end of a list, how many more there were."""
_REPR_CHARACTERS = 200
_ARRAY_ITEMS = 100
_PLAIN = frozenset({float, int, str, bool, type(None)})
_CONTAINERS = (Mapping, list, tuple, Set)
# A secret at the end of a cut text is recognised by what follows in it.
_SECRET_CHARACTERS = 1_024
_LINE_CHARACTERS = 200  # of a line of a private key
# Reading one of these, even to print it, may wait for a device.
_DEVICE_LIBRARIES = frozenset({"torch", "jax", "jaxlib", "cupy", "tensorflow", "mlx", "torch_xla"})


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much of a value is kept: nesting levels, values in all, characters of each text
    and of all texts together."""

    depth: int = 16
    items: int = 20_000
    text: int = 16_384
    characters: int = 1 << 20


LIMITS_BY_SIZE = (
    Limits(),
    Limits(10, 4_000, 8_192),
    Limits(8, 2_000, 1_024),
    Limits(4, 200, 128),
)
"""Limits to try in this order; within the last, any value fits one record."""
_FACT_LIMITS = LIMITS_BY_SIZE[1]  # the facts of a run are shown on a page


class LongText(str):
    """A text that may be four times as long as others: how a model is built, for example."""

    __slots__ = ()


class Sanitizer:
    """Turns values into None, bool, int, float, str, list and dict with text keys.

    ``lossy`` is True afterwards if anything was cut or only described, ``unread`` describes the
    first array on a device. If there are more values
    than the limit, each branch of a container gets a share: a small one stays whole beside a large
    one. A sanitizer counts values against its limits, so each event takes a new one.
    """

    def __init__(self, limits: Limits = LIMITS_BY_SIZE[0]) -> None:
        self.lossy = False
        self.unread = ""
        self._limits = limits
        self._remaining = limits.items  # of the branch that is being converted
        self._characters = limits.characters

    def clean(self, data: Any) -> Any:
        """``data`` of an event made encodable, without secrets by name or by form."""
        return mask_names(self.sanitize(data))

    def sanitize(self, value: Any, depth: int = 0) -> Any:
        """``value`` made encodable; raises only the script's own exceptions.

        Its texts are redacted, the values of secret names are not: see ``clean``.
        """
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
            return self._text(str.__str__(value), 4 if isinstance(value, LongText) else 1)
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
        items = list(value.items())
        converted = self._branches([item for _, item in items], depth)
        result = {self._key(key): item for (key, _), item in zip(items, converted, strict=False)}
        left_out = len(items) - len(result)
        if left_out:  # the budget is spent, or two names are one as text
            self.lossy = True
            result[UNENCODABLE] = f"{left_out:,} of {len(items):,} names are left out"
        return result

    def _sequence(self, value: Iterable[Any], depth: int) -> Any:
        if depth >= self._limits.depth:
            return self._placeholder(f"<{_type_name(type(value))} nested too deeply>")
        items = list(value)
        result = self._branches(_without_key_lines(items[: self._remaining + 1]), depth)
        if len(result) < len(items):
            left_out = len(items) - len(result)
            result.append({UNENCODABLE: f"{left_out:,} of {len(items):,} values are left out"})
        return result

    def _branches(self, values: list[Any], depth: int) -> list[Any]:
        """As many of ``values`` as the budget allows, converted.

        A branch that needs less than an equal share of the budget gets what it needs; the others
        share the rest.
        """
        budget = self._remaining
        kept = values[:budget]
        if len(kept) < len(values):
            self.lossy = True
        equal = budget // max(len(kept), 1)
        sizes = [1 if type(value) in _PLAIN else _size(value, equal + 1) for value in kept]
        large = sum(size > equal for size in sizes)
        left = budget - sum(size for size in sizes if size <= equal)
        spare = 0 if large else left
        result = []
        for value, size in zip(kept, sizes, strict=True):
            share = size
            if size > equal:
                share = left // large
                left, large = left - share, large - 1
            self._remaining = share - 1 + spare
            result.append(self.sanitize(value, depth + 1))
            if type(value) not in _PLAIN:
                spare = self._remaining
        self._remaining = spare
        return result

    def _array(self, value: Any, depth: int) -> Any:
        """Read a small array in host memory, describe any other."""
        cls = type(value)
        if _type_name(cls) in ("torch.dtype", "torch.device"):
            return self._text(str(value).removeprefix("torch."))
        readable = _is_readable(value)
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
        description = f"<{_type_name(cls)} {facts}>"
        if not readable:
            self.unread = self.unread or description
        return self._placeholder(description)

    def _key(self, key: object) -> str:
        return self._text(key if type(key) is str else _key_text(key))

    def _text(self, value: str, times: int = 1) -> str:
        limit = min(self._limits.text * times, self._characters)
        self._characters -= min(len(value), limit)
        if len(value) <= limit:
            return _encodable(redact_text(value))
        self.lossy = True
        redacted = redact_text(value[: limit + _SECRET_CHARACTERS]) if limit else ""
        return f"{_encodable(redacted[:limit])}… ({len(value)} characters)"

    def _large_int(self, value: int) -> Any:
        try:
            return float(value)
        except OverflowError:
            return self._placeholder(f"<int of {value.bit_length()} bits>")

    def _placeholder(self, text: str) -> dict[str, str]:
        self.lossy = True
        text = redact_text(text[: _REPR_CHARACTERS + _SECRET_CHARACTERS])
        return {UNENCODABLE: _encodable(text[:_REPR_CHARACTERS])}


def clean_data(kind: str, data: Any) -> tuple[dict[str, Any], bool, str]:
    """The data of an event of ``kind``, cleaned, and whether any of it had to be left out.

    The third is the description of an array on a device, which is never read; empty without one.
    """
    sanitizer = Sanitizer(_FACT_LIMITS if kind == "run_start" else LIMITS_BY_SIZE[0])
    clean = sanitizer.clean(data)
    if isinstance(clean, dict):
        return clean, sanitizer.lossy, sanitizer.unread
    why = f"{_type_name(type(data))} in place of a map"
    return {UNENCODABLE: why, "data": clean}, True, sanitizer.unread


def as_step(value: Any) -> int | None:
    """``value`` as a step; None if it is no number within 64 bits, or is on a device."""
    number = _as_number(value, int)
    return number if number is not None and -INT_MAX <= number <= INT_MAX else None


def as_epoch(value: Any) -> float | None:
    """``value`` as an epoch; None if it is no finite number within 64 bits, or is on a device."""
    number = _as_number(value, float)
    return number if number is not None and is_epoch(number) else None


def _as_number(value: Any, kind: Callable[[Any], Any]) -> Any:
    if value is None or (_is_array_type(value) and not _is_readable(value)):
        return None
    try:
        return kind(value)
    except BaseException as error:  # foreign code: a Rust panic is no Exception
        if is_script_error(error):
            raise
        return None


def _size(value: Any, most: int) -> int:
    """How many values ``value`` is and holds, counted up to ``most``."""
    count, waiting = 0, [value]
    while waiting and count < most:
        item = waiting.pop()
        count += 1
        cls = type(item)
        if cls in _PLAIN:
            continue
        try:
            if cls in (dict, list, tuple) and len(item) < most:
                waiting += item.values() if cls is dict else item
            elif isinstance(item, _CONTAINERS):
                count += len(item)
            elif dataclasses.is_dataclass(item) and not isinstance(item, type):
                waiting += vars(item).values()
            elif _is_array_type(item):
                count += min(math.prod(getattr(item, "shape", ())), _ARRAY_ITEMS)
        except BaseException as error:  # foreign code: a Rust panic is no Exception
            if is_script_error(error):
                raise
    return min(count, most)


def _without_key_lines(items: list[Any]) -> list[Any]:
    """``items`` without the lines of a private key that is split into a list of lines."""
    if not any(
        type(item) is str and len(item) <= _LINE_CHARACTERS and begins_key_block(item)
        for item in items
    ):
        return items
    result, is_inside = [], False
    for item in items:
        if type(item) is not str:
            result.append(item)
        elif is_inside:
            is_inside = not ends_key_block(item)
            result.append(REDACTED)
        else:
            is_inside = begins_key_block(item)
            result.append(item)
    return result


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _fields(value: Any) -> Mapping[str, Any]:
    """The fields of a dataclass, by its own ``to_dict`` if it has one."""
    if hasattr(value, "to_dict"):
        return dict(value.to_dict())
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _is_array_type(value: Any) -> bool:
    cls = type(value)
    # A script's own subclass of a tensor is a tensor: printing it waits for the device too.
    return _library(cls) == "numpy" or any(
        _library(base) in _DEVICE_LIBRARIES for base in cls.__mro__
    )


def _is_readable(value: Any) -> bool:
    """Whether reading an array waits for nothing."""
    return _library(type(value)) == "numpy" or _is_host_tensor(value)


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


def _library(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
