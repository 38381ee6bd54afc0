"""What a stream's events report by name, and which numbers are points: for store and rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.protocol.event_kinds import KINDS
from lineside.bus.protocol.events import Event

LOG = "log"
_EVALUATION_KINDS = frozenset({"evaluate", "predict"})
_MAX_DEPTH = 8  # of nested maps; a deeper one is one value


@dataclass(slots=True)
class MetricPoints:
    """Finds the points of one stream's events, which it is given in their order.

    A Trainer reports an evaluation twice: in a ``log``, which a subclass or a callback may round or
    extend, and then in ``evaluate``. Other events may come in between. The log owns what it holds,
    as in every tracker. So each number of a log is a point, and a number of ``evaluate`` or
    ``predict`` is one unless a log has held its name at this step; an evaluation takes each log
    once. ``unclaimed`` counts, by name, the logs at ``step`` that no evaluation has taken.
    """

    step: int | None = None
    unclaimed: dict[str, int] = field(default_factory=dict)

    def of(self, event: Event) -> dict[str, float | int]:
        """The points of ``event`` by name; none if it has no numbers by name."""
        values = numbers(event)
        if event.kind == LOG:
            if event.step != self.step:
                self.step, self.unclaimed = event.step, {}
            unclaimed = self.unclaimed
            for name in values:
                unclaimed[name] = unclaimed.get(name, 0) + 1
        elif event.kind in _EVALUATION_KINDS and event.step == self.step:
            values = {name: value for name, value in values.items() if not self._claim(name)}
        return values

    def _claim(self, name: str) -> bool:
        left = self.unclaimed.pop(name, 0)
        if left > 1:
            self.unclaimed[name] = left - 1
        return left > 0


def numbers(event: Event) -> dict[str, float | int]:
    """The numbers that an event reports by name, whether or not they are points.

    ``{"eval": {"loss": 1.0}}`` reports ``eval/loss``, unless that name is given too.
    """
    values = _reported(event)
    found = {
        name: value
        for name, value in values.items()
        if isinstance(value, (float, int)) and isinstance(name, str)
    }
    for name, value in values.items():
        if isinstance(value, Mapping):
            for path, leaf in _leaves(name, value):
                if isinstance(leaf, (float, int)):
                    found.setdefault(path, leaf)
    return found


def other_values(event: Event) -> dict[str, Any]:
    """What an event reports by name, as ``numbers``, that is no number: texts and lists."""
    return {
        path: leaf
        for name, value in _reported(event).items()
        if not isinstance(value, (float, int))
        for path, leaf in _leaves(name, value)
        if leaf is not None and not isinstance(leaf, (float, int))
    }


def _reported(event: Event) -> Mapping[Any, Any]:
    kind = KINDS.get(event.kind)
    values = event.data.get(kind.summary) if kind and kind.summary and event.data else None
    return values if isinstance(values, Mapping) else {}


def _leaves(name: object, value: object, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The values of nested maps with their paths. ``{"!": ...}`` stands for one value."""
    if isinstance(value, Mapping) and value and depth < _MAX_DEPTH and value.keys() != {"!"}:
        for key, inner in value.items():
            yield from _leaves(f"{name}/{key}", inner, depth + 1)
    else:
        yield str(name), value
