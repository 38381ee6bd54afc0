"""Runs a callback of a plain training loop where a Trainer's callback runs.

The loop's protocol is ``on_train_begin()``, ``on_epoch_begin(epoch)``,
``on_step_end(step, metrics)``, ``on_epoch_end(epoch, metrics)`` and ``on_train_end()``. A class may
leave out any of them.
"""
# ruff: noqa: ARG002 - the Trainer defines the arguments of a hook

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS

PROTOCOL: Mapping[str, tuple[str, ...]] = {
    "on_train_begin": (),
    "on_epoch_begin": ("epoch",),
    "on_step_end": ("step", "metrics"),
    "on_epoch_end": ("epoch", "metrics"),
    "on_train_end": (),
}
"""The methods of the protocol and what they receive, by position."""
_ROUNDED = 6  # digits of an epoch, which the Trainer sums up from steps


def is_loop_class(found: type[Any]) -> bool:
    """Whether ``found`` has methods of the protocol, each of which takes its values."""
    methods = {name: getattr(found, name, None) for name in PROTOCOL}
    given = {name: method for name, method in methods.items() if callable(method)}
    return bool(given) and all(_takes(given[name], 1 + len(PROTOCOL[name])) for name in given)


def adapt(found: type[Any]) -> type[Any]:
    """A class with a Trainer's hooks, and the name and arguments of the plain loop's ``found``."""

    class Adapted(LoopCallbackAdapter):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(found(*args, **kwargs))

    changed: Any = Adapted
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(changed, name, getattr(found, name))
    with suppress(TypeError, ValueError):  # it has no signature
        changed.__signature__ = inspect.signature(found)
    return Adapted


class LoopCallbackAdapter:
    """Calls ``callback``, of a plain training loop, from the hooks of a Trainer.

    A step's metrics, and those of an epoch's end, come in hooks that follow: logs and evaluations.
    So ``on_step_end`` and ``on_epoch_end`` are called once another hook follows. A log without the
    end of its step stands for that. Epochs count from 0.
    """

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self._waiting = ""  # the method that is called once its metrics are complete
        self._number = 0  # that it is called with
        self._waiting_step = 0
        self._metrics: dict[str, Any] = {}
        self._step = -1  # the newest one that on_step_end was called with
        self._epoch: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call("on_train_begin")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._finish()
        self._epoch = math.floor(round(state.epoch or 0.0, _ROUNDED))
        self._call("on_epoch_begin", self._epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._wait("on_step_end", state.global_step, state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._epoch is None:  # it began before this object was made
            self._epoch = max(0, math.ceil(round(state.epoch or 0.0, _ROUNDED)) - 1)
        self._finish()
        self._wait("on_epoch_end", self._epoch, state)
        self._epoch = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._finish()
        self._call("on_train_end")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.global_step > (self._waiting_step if self._waiting else self._step):
            self._wait("on_step_end", state.global_step, state)
        self._add(logs)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        self._add(metrics)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation goes on, whose metrics belong to what is waited for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):  # a hook of later versions of transformers
            return self._finish_before
        raise AttributeError(name)

    def _finish_before(self, *args: Any, **kwargs: Any) -> None:
        self._finish()

    def _wait(self, method: str, number: int, state: Any) -> None:
        if (self._waiting, self._number) != (method, number):
            self._finish()
            self._waiting, self._number = method, number
            self._waiting_step = state.global_step

    def _add(self, metrics: Mapping[str, Any] | None) -> None:
        if self._waiting and metrics:
            self._metrics.update(metrics)

    def _finish(self) -> None:
        method, metrics = self._waiting, self._metrics
        self._waiting, self._metrics = "", {}
        if method == "on_step_end":
            if self._number <= self._step:
                return
            self._step = self._number
        if method:
            self._call(method, self._number, metrics)

    def _call(self, method: str, *values: Any) -> None:
        hook = getattr(self.callback, method, None)
        if hook is not None:
            hook(*values)


for _kind in LIFECYCLE_KINDS:
    if f"on_{_kind}" not in vars(LoopCallbackAdapter):
        setattr(LoopCallbackAdapter, f"on_{_kind}", LoopCallbackAdapter._finish_before)


def _takes(method: Any, count: int) -> bool:
    """Whether ``method`` can be called with ``count`` values by position."""
    try:
        inspect.signature(method).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True
