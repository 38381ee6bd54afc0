"""Which numbers of a stream's events are points of its curves: one answer for store and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lineside.bus.protocol.event_kinds import KINDS
from lineside.bus.protocol.events import Event

LOG = "log"
_EVALUATION_KINDS = frozenset({"evaluate", "predict"})


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
    """The numbers that an event reports by name, whether or not they are points."""
    kind = KINDS.get(event.kind)
    values = event.data.get(kind.summary) if kind and kind.summary and event.data else None
    if not isinstance(values, Mapping):
        return {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (float, int)) and isinstance(name, str)
    }
