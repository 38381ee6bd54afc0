"""The numbers at a checkpoint's step: of logs and evaluations there, and those given with it.

A Trainer logs and evaluates before it saves. An evaluation of the same step that comes later, as
after ``train()``, is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from lineside.bus.protocol.fields import is_int64, is_name
from lineside.bus.protocol.metric_points import numbers
from lineside.store.database.tables import METRIC
from lineside.store.database.values import decode_float, to_json
from lineside.store.recording.event_context import EventContext

MAX_METRICS = 1_000
"""The most numbers kept with a checkpoint; the run's curves have all of them."""


def metrics_at_save(context: EventContext) -> dict[str, float]:
    """The stream's newest numbers that are of the step of a ``save``, and those given in it."""
    given = given_numbers(context.data.get("metrics"))
    logged = {
        name: decode_float(curve.last, curve.last_flag)
        for (kind, name), curve in context.stream.series.items()
        if kind == METRIC and curve.n and curve.last_step == context.event.step
    }
    return {**given, **logged, **given}


def given_numbers(value: object) -> dict[str, float]:
    """The numbers by name of a map in an event; empty if it is none."""
    if not isinstance(value, Mapping):
        return {}
    return {
        name: number
        for name, number in value.items()
        if is_name(name)
        and (isinstance(number, float) or is_int64(number))
        and not isinstance(number, bool)
    }


def metrics_of_evaluation(context: EventContext) -> dict[str, float]:
    """The numbers of an ``evaluate`` event."""
    return given_numbers(numbers(context.event))


def metrics_json(metrics: Mapping[str, Any]) -> str | None:
    """The column ``metrics``: the first ``MAX_METRICS`` numbers; None without any."""
    return to_json(dict(islice(metrics.items(), MAX_METRICS))) if metrics else None
