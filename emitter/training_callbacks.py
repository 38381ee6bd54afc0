"""Callbacks of the configuration that run in the training process: ``where: training``.

The launcher puts their entries into LINESIDE_CALLBACKS. Each is made in every Trainer, behind
Lineside's own callback. None of their exceptions reaches training, ``sys.exit`` included. Nothing
contains one that hangs or ends the process in another way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from transformers import TrainerCallback, TrainerControl
from transformers.trainer_callback import ExportableState

from lineside.bus.callback_config import CallbackEntry, check_callback, construct, parse_entries
from lineside.emitter.spool.script_errors import is_from_signal_handler
from lineside.emitter.training.console import print_once
from lineside.emitter.training.error_facts import error_facts, one_line

_HOOKS = tuple(name for name in dir(TrainerCallback) if name.startswith("on_"))
_EMPTY_STATE: dict[str, Any] = {"args": {}, "attributes": {}}  # of an ExportableState

Report = Callable[[dict[str, Any], Any, Any], object]
"""Takes the data of a ``subscriber_error``, and the Trainer's state and control, if known."""


def add_callbacks(handler: Any, text: str, report: Report) -> None:
    """Add the callbacks of the entries in ``text``, JSON, to a CallbackHandler; never raises."""
    for entry in parse_entries(json.loads(text)):
        guard = CallbackGuard(entry, report)
        callback = guard.call("__init__", guard.make, (), {})
        if callback is not None:
            handler.callbacks.append(callback)


class CallbackGuard:
    """Makes the callback of one entry, and counts and reports its exceptions.

    The callback is of a class made from its own, so that its state is saved and restored as usual.
    """

    def __init__(self, entry: CallbackEntry, report: Report) -> None:
        self._entry = entry
        self._report = report
        self._errors: Counter[str] = Counter()

    def make(self) -> Any:
        """The callback.

        Raises:
            CallbackConfigError: the entry cannot be used.
        """
        found, arguments = check_callback(self._entry)
        changed: dict[str, Any] = {
            name: self._guarded(name, hook)
            for name in _HOOKS
            if (hook := getattr(found, name, None)) not in (None, getattr(TrainerCallback, name))
        }
        if issubclass(found, ExportableState):
            changed["state"] = self._guarded("state", found.state, _EMPTY_STATE)
        for name in ("__module__", "__qualname__", "__doc__"):
            changed[name] = getattr(found, name)
        metaclass: Any = type(found)
        guarded = metaclass(found.__name__, (found,), changed)
        made = construct(self._entry, guarded, arguments)
        own = vars(made)
        # Hooks that the constructor has set hide those of the class.
        own |= {name: self._guarded(name, own[name]) for name in _HOOKS if name in own}
        return made

    def call(
        self, method: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The result of ``func``; None after an exception, which is counted and reported."""
        try:
            return func(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or is_from_signal_handler(error):
                raise
            self._count(method, error, args)
            return None

    def _guarded(self, method: str, func: Any, default: Any = None) -> Any:
        @wraps(func)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            result = self.call(method, func, args, kwargs)
            if default is not None:
                return default if result is None else result
            # The Trainer goes on with what a hook returns.
            return result if isinstance(result, TrainerControl) else None

        return guarded

    def _count(self, method: str, error: BaseException, args: tuple[Any, ...]) -> None:
        self._errors[method] += 1
        count = self._errors[method]
        if count == 1:
            print_once(
                f"callback {self._entry.id}: {method} failed, training goes on ({one_line(error)})"
            )
        if str(count).strip("0") != "1":  # 1, 10, 100 and so on
            return
        state, control = (args[2], args[3]) if len(args) > 3 else (None, None)
        data = {
            "subscriber": self._entry.id,
            "action": "skipped",
            "method": method,
            "kind": method.removeprefix("on_"),
            "tries": 1,
            "errors": count,
            "error": error_facts(error),
        }
        self._report(data, state, control)
