"""Adds the callback to every Trainer of this process, without a line in its script.

``lineside run`` puts this folder first on PYTHONPATH, so Python imports this module at start. It
does nothing until transformers' ``trainer_callback`` is imported, and then wraps
``CallbackHandler``; with ``--take-over`` it changes transformers' integrations as well. It imports
nothing of Lineside at start: the interpreter may be another one than Lineside's, and must behave as
if this file did not exist.
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
_HANDLER = "transformers.trainer_callback"
_INTEGRATIONS = "transformers.integrations.integration_utils"


class _Finder:
    """Finds the modules to change as other finders do, each once, and then removes itself."""

    def __init__(self, loads: dict[str, Callable[[Any, ModuleType], None]]) -> None:
        self._loads = loads

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._loads:
            return None
        change = self._loads.pop(name)
        if not self._loads:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = _changed_load(name, loader.exec_module, change)
        return spec


def _changed_load(
    name: str,
    load: Callable[[ModuleType], None],
    change: Callable[[Any, ModuleType], None],
) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        if module.__name__ == name:
            change(load, module)
        else:
            load(module)  # some loaders are shared by many modules

    return exec_module


def _load_handler(load: Callable[[ModuleType], None], module: ModuleType) -> None:
    load(module)
    try:
        _patch_handler(module)
    except Exception as error:  # noqa: BLE001 - training goes on after any error
        _log(f"this run is not recorded: {type(error).__name__}: {error}")


def _load_integrations(load: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        from lineside.emitter.launch.take_over import load_integrations
    except Exception:  # noqa: BLE001 - reported when a Trainer is made
        load(module)
    else:
        load_integrations(load, module)


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
        if callback_class and os.environ.get("LINESIDE_CALLBACKS"):
            _add_configured(self, callback_class)

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
    if _takes_over():
        from lineside.emitter.launch import take_over

        take_over.patch_handler(handler, _callback_class)


def _add_configured(handler: Any, callback_class: Any) -> None:
    """Add the callbacks of the configuration that run in the training process."""
    try:
        from lineside.emitter.training_callbacks import add_callbacks

        def report(*error: Any) -> None:
            # The script may have replaced the callback, or removed it.
            for one in handler.callbacks:
                if isinstance(one, callback_class):
                    one.on_callback_error(*error)
                    return

        add_callbacks(handler, os.environ["LINESIDE_CALLBACKS"], report)
    except Exception as error:  # noqa: BLE001 - training goes on after any error
        _log(f"a callback of the configuration is missing: {type(error).__name__}: {error}")


def _takes_over() -> bool:
    return os.environ.get("LINESIDE_TAKE_OVER") == "1"


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


_loads: dict[str, Callable[[Any, ModuleType], None]] = {_HANDLER: _load_handler}
if _takes_over():
    _loads[_INTEGRATIONS] = _load_integrations
sys.meta_path.insert(0, _Finder(_loads))
if __name__ == "sitecustomize":
    _run_shadowed()
