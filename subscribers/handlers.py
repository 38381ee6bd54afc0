"""Finds the handlers that a subscriber class overrides, and refuses names that are none."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from lineside.bus.errors import UsageError
from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.bus.wording import did_you_mean
from lineside.subscribers.event_types import EVENT_TYPES
from lineside.subscribers.subscriber import ON_ERROR, Subscriber

_PREFIX = "on_"
_METHODS = frozenset(
    name for name, value in vars(Subscriber).items() if name.startswith(_PREFIX) and callable(value)
)
_HOOKS = {"tick": 3, "flush": 2, "close": 2}  # with how many arguments each is called
_FREQUENT_KINDS = STEP_KINDS | {"log", "evaluate"}  # a plain number for ``frequency`` is of these


class Handlers:
    """The handlers and hooks that ``subscriber`` overrides.

    Raises:
        UsageError: it has an ``on_...`` method of no event, or a setting that cannot be used.
    """

    def __init__(self, subscriber: type[Subscriber]) -> None:
        self._class = subscriber
        for name in dir(subscriber):
            if name.startswith(_PREFIX) and name != "on_error" and name not in _METHODS:
                raise _unknown_method_error(subscriber, name)
        if subscriber.on_error not in ON_ERROR:
            raise UsageError(
                f"{subscriber.__name__}.on_error={subscriber.on_error!r}: "
                f"expected one of {', '.join(ON_ERROR)}"
            )
        for name in _METHODS | _HOOKS.keys():
            _check_arguments(subscriber, name, _HOOKS.get(name, 3))
        catch_all = "on_event" if self._overrides("on_event") else None
        self.by_kind: Mapping[str, str] = {
            kind: method
            for kind in EVENT_TYPES
            if (method := f"on_{kind}" if self._overrides(f"on_{kind}") else catch_all)
        }
        self.fallback = catch_all
        self.has_tick, self.has_flush = self._overrides("tick"), self._overrides("flush")
        self._frequencies = self._parse_frequency()
        if not (self.by_kind or self.has_tick):
            raise UsageError(
                f"{subscriber.__name__} handles nothing: expected on_event, a method of an event "
                "such as on_log, or tick"
            )

    def method(self, kind: str) -> str | None:
        """The name of the method that takes events of ``kind``; None if none does."""
        return self.by_kind.get(kind, None if kind in EVENT_TYPES else self.fallback)

    def frequency(self, kind: str) -> float | None:
        """The part of a run in which the method of ``kind`` is called once; None: each event."""
        return self._frequencies.get(kind)

    def _overrides(self, name: str) -> bool:
        return getattr(self._class, name) is not getattr(Subscriber, name)

    def _parse_frequency(self) -> Mapping[str, float]:
        given = self._class.frequency
        if not isinstance(given, Mapping):
            given = {
                f"on_{kind}": given for kind in _FREQUENT_KINDS if self._overrides(f"on_{kind}")
            }
        for name, part in given.items():
            if name not in _METHODS:
                raise _unknown_method_error(self._class, name)
            if not isinstance(part, (int, float)) or not 0 < part <= 1:
                raise UsageError(
                    f"{self._class.__name__}.frequency={part!r} of {name}: expected a part of the "
                    "run above 0 and at most 1, such as 0.1"
                )
        return {name.removeprefix(_PREFIX): float(part) for name, part in given.items()}


def _check_arguments(subscriber: type[Subscriber], name: str, count: int) -> None:
    """Refuse a method that cannot take its arguments, ``self`` included."""
    method = inspect.getattr_static(subscriber, name)
    if not inspect.isfunction(method):
        return
    signature = inspect.signature(method)
    try:
        signature.bind(*[None] * count)
    except TypeError:
        base = ", ".join(inspect.signature(getattr(Subscriber, name)).parameters)
        raise UsageError(
            f"{subscriber.__name__}.{name}{signature}: expected ({base}) as arguments"
        ) from None


def _unknown_method_error(subscriber: type[Subscriber], name: str) -> UsageError:
    file = inspect.getsourcefile(subscriber) or subscriber.__module__
    similar = did_you_mean(name, _METHODS)
    known = f"{similar} Other" if similar else f": expected {', '.join(sorted(_METHODS))}; other"
    return UsageError(
        f"{subscriber.__name__}.{name} in {file} handles no event{known} methods must not begin "
        "with on_"
    )
