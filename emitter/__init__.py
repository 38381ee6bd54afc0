"""Publishes training from the training process, and ships its events to the bus.

Importing this package loads no other library; the first use of ``LinesideCallback`` imports
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineside.bus.callback_config import load_callbacks_from_config
    from lineside.emitter.callback import LinesideCallback
    from lineside.emitter.checkpoint_callback import CheckpointCallback
    from lineside.emitter.loop_callback import LoopCallback
    from lineside.emitter.training.run import Run, start_run

__all__ = [
    "CheckpointCallback",
    "LinesideCallback",
    "LoopCallback",
    "Run",
    "load_callbacks_from_config",
    "start_run",
]

_MODULES = {
    "CheckpointCallback": "lineside.emitter.checkpoint_callback",
    "LinesideCallback": "lineside.emitter.callback",
    "LoopCallback": "lineside.emitter.loop_callback",
    "Run": "lineside.emitter.training.run",
    "load_callbacks_from_config": "lineside.bus.callback_config",
    "start_run": "lineside.emitter.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
