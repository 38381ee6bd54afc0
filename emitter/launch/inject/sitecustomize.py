"""Adds the callback to every Trainer of this process, without a line in its script.

``lineside run`` puts this folder first on PYTHONPATH, so Python imports this module at start. It
does nothing until transformers' ``trainer_callback`` is imported, and then wraps
``CallbackHandler``. It imports nothing of Lineside at start: the interpreter may be another one
than Lineside's, and must behave as if this file did not exist.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - imported at every start
_TARGET = "transformers.trainer_callback"


class _Finder:
    """Finds the module to change as other finders do, and removes itself."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = _after_load(loader.exec_module, _patch_handler)
        return spec


def _after_load(
    load: Callable[[ModuleType], None], change: Callable[[ModuleType], None]
) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        load(module)
        if module.__name__ != _TARGET:
            return  # some loaders are shared by many modules
        try:
            change(module)
        except Exception as error:  # noqa: BLE001 - training goes on after any error
            _log(f"this run is not recorded: {type(error).__name__}: {error}")

    return exec_module


def _patch_handler(module: ModuleType) -> None:
    handler = module.CallbackHandler
    original_init, original_add = handler.__init__, handler.add_callback

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original_init(self, *args, **kwargs)
        callback_class = _callback_class()
        if callback_class and not any(
            isinstance(existing, callback_class) for existing in self.callbacks
        ):
            original_add(self, callback_class())

    def add_callback(self: Any, callback: Any) -> Any:
        # A callback that the script adds itself replaces the injected one.
        callback_class = _callback_class()
        added_class = callback if isinstance(callback, type) else type(callback)
        if callback_class and issubclass(added_class, callback_class):
            self.callbacks = [
                existing for existing in self.callbacks if not isinstance(existing, callback_class)
            ]
        return original_add(self, callback)

    handler.__init__, handler.add_callback = __init__, add_callback


_callback_cache: list[Any] = []


def _callback_class() -> Any:
    if not _callback_cache:
        try:
            from lineside.emitter import LinesideCallback
        except Exception as error:  # noqa: BLE001 - training goes on after any error
            _log(f"{sys.executable} cannot import it, this run is not recorded: {error}")
            _callback_cache.append(None)
        else:
            _callback_cache.append(LinesideCallback)
    return _callback_cache[0]


def _log(what: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"lineside: {what}\n")


def _run_shadowed() -> None:
    """Import the ``sitecustomize`` that this one hides."""
    elsewhere = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec(__name__, elsewhere)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[__name__] = module
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _Finder())
if __name__ == "sitecustomize":
    _run_shadowed()
