"""Devices, dtypes and shapes: torch's own where torch is loaded, else texts and tuples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


class Device(str):
    """A device as text, such as ``cuda:0``."""

    __slots__ = ()

    @property
    def type(self) -> str:
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        number = self.partition(":")[2]
        return int(number) if number.isdigit() else None


def device(text: str) -> Any:
    """``torch.device(text)``."""
    torch = sys.modules.get("torch")
    if torch is None:
        return Device(text)
    try:
        return torch.device(text)
    except RuntimeError:  # a kind of device that this torch does not know
        return Device(text)


def dtype(text: str) -> Any:
    """The dtype called ``text``, such as ``float32``."""
    torch = sys.modules.get("torch")
    as_printed = f"torch.{text}"
    return as_printed if torch is None else getattr(torch, text, as_printed)


def shape(sizes: Sequence[int]) -> Any:
    """``torch.Size(sizes)``."""
    torch = sys.modules.get("torch")
    return tuple(sizes) if torch is None else torch.Size(sizes)
