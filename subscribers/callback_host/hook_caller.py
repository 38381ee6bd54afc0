"""Calls the hooks of one callback as the Trainer does, from events."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import CONTROL_BITS, Event
from lineside.subscribers.callback_host.rebuild.run_image import RunImage
from lineside.subscribers.callback_host.trackers.tracker import HookCall

_HOOKS = {kind: f"on_{kind}" for kind in LIFECYCLE_KINDS}
_ALWAYS_PASSED = (
    "model",
    "processing_class",
    "optimizer",
    "lr_scheduler",
    "train_dataloader",
    "eval_dataloader",
)
_ALSO_PASSED = {"on_log": "logs", "on_evaluate": "metrics", "on_predict": "metrics"}
_POSITIONAL = 3  # args, state and control


@dataclass(frozen=True)
class FlagChanges:
    """The flags of ``TrainerControl`` that a hook has set, and those that it has cleared."""

    set: frozenset[str] = frozenset()
    cleared: frozenset[str] = frozenset()


class HookCaller:
    """Calls ``callback`` with what ``image`` has, which must have observed the event before."""

    def __init__(self, callback: Any, image: RunImage) -> None:
        self._callback = callback
        self._image = image

    def call(self, event: Event) -> FlagChanges:
        """Call the hook of ``event``, if the callback has one of its own."""
        call = self.prepare(event)
        return FlagChanges() if call is None else self.invoke(call)

    def prepare(self, event: Event) -> HookCall | None:
        """The call for ``event``; None if it is none of a hook that the callback overrides."""
        hook = _HOOKS.get(event.kind)
        if hook is None or not overrides(self._callback, hook):
            return None
        image = self._image
        return HookCall(
            hook,
            event,
            image.args,
            image.state,
            image.control(event),
            image.keywords(event),
            self._callback,
        )

    def invoke(self, call: HookCall) -> FlagChanges:
        """Make a call; an exception of the callback comes through."""
        method = getattr(call.callback, call.hook)
        before = _flags(call.control)
        returned = method(call.args, call.state, call.control, **call.keywords)
        after = _flags(call.control if returned is None else returned)
        return FlagChanges(after - before, before - after)


def overrides(callback: Any, hook: str) -> bool:
    """Whether a callback does anything in a hook."""
    method = getattr(callback, hook, None)
    inherited = getattr(TrainerCallback, hook, None)
    return method is not None and getattr(method, "__func__", method) is not inherited


def exported_attributes(callback: Any) -> dict[str, Any] | None:
    """What a checkpoint keeps of a callback; None of one that has no such state."""
    if not isinstance(callback, ExportableState):
        return None
    return dict(callback.state().get("attributes") or {})


def signature_problems(callback: Any) -> tuple[str, ...]:
    """A sentence for each hook that the Trainer does not call as its author expects."""
    return (*_parameter_problems(callback), *_name_problems(callback))


def _parameter_problems(callback: Any) -> Iterator[str]:
    cls = type(callback).__name__
    for hook in _HOOKS.values():
        if not overrides(callback, hook):
            continue
        try:
            parameters = list(inspect.signature(getattr(callback, hook)).parameters.values())
        except (TypeError, ValueError):
            continue
        passed = [*_ALWAYS_PASSED]
        if hook in _ALSO_PASSED:
            passed.append(_ALSO_PASSED[hook])
        named = [
            p
            for p in parameters[_POSITIONAL:]
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            missing = [name for name in passed if name not in {p.name for p in named}]
            if missing:
                yield (
                    f"{cls}.{hook} fails at each call: the Trainer passes {', '.join(missing)}, "
                    "which it does not take; add **kwargs"
                )
                continue
        for parameter in named:
            if parameter.name not in passed:
                has_default = parameter.default is not parameter.empty
                result = "always has its default" if has_default else "is missing at each call"
                other = _ALSO_PASSED.get(hook)
                hint = f"; it passes {other}" if other else ""
                yield (
                    f"{cls}.{hook}: its parameter {parameter.name!r} {result}, because the Trainer "
                    f"does not pass it{hint}"
                )


def _name_problems(callback: Any) -> Iterator[str]:
    cls = type(callback)
    known = {*_HOOKS.values(), *(name for name in dir(TrainerCallback) if name.startswith("on_"))}
    for name in dir(cls):
        if name.startswith("on_") and name not in known and callable(getattr(cls, name, None)):
            near = difflib.get_close_matches(name, known, 1, 0.8)
            if near:
                yield f"{cls.__name__}.{name} is never called: the Trainer's hook is {near[0]}"


def _flags(control: Any) -> frozenset[str]:
    return frozenset(name for name in CONTROL_BITS if getattr(control, name, False))
