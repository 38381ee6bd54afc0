"""Publishes training from the training process, and ships its events to the bus.

Importing this package loads no other library; the first use of ``LinesideCallback`` imports
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineside.emitter.callback import LinesideCallback
    from lineside.emitter.training.run import Run, start_run

__all__ = ["LinesideCallback", "Run", "start_run"]

_MODULES = {
    "LinesideCallback": "lineside.emitter.callback",
    "Run": "lineside.emitter.training.run",
    "start_run": "lineside.emitter.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
