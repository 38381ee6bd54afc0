"""Sends batches in the line protocol of InfluxDB 1, 2 and 3, VictoriaMetrics, QuestDB, Telegraf.

A point is one line, which overwrites itself when it is sent twice:

    lineside,run=...,name=...,project=...,producer=rank0,attempt=... loss=0.5,step=10.0 TIME
"""

from __future__ import annotations

import math
import re

from lineside.subscribers.uploader.batch import Batch, Point
from lineside.subscribers.uploader.sinks.receiver import Receiver

MEASUREMENT = "lineside"
_TAGS = ("run", "name", "project", "producer", "attempt")
_RESERVED = frozenset({"time", *_TAGS})
"""No names of fields: InfluxDB refuses ``time``, and version 3 a name that is that of a tag."""
_ESCAPED = re.compile(r"([,= ])")
_LOOSE_BACKSLASHES = re.compile(r"\\+(?=[,= ]|$)")  # receivers differ in how they read them
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class InfluxDb:
    """Writes to the address of a database or bucket, in nanoseconds, the default of all of them."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def send(self, batch: Batch) -> None:
        if body := lines(batch):
            self._receiver.post(body.encode(), "text/plain; charset=utf-8")


def lines(batch: Batch) -> str:
    """The points of ``batch``; one without any finite number is no line."""
    tags = {name: _escape(getattr(batch, name)) for name in _TAGS}
    series = MEASUREMENT + "".join(f",{name}={text}" for name, text in tags.items() if text)
    return "".join(f"{series} {line}\n" for point in batch.points if (line := _line(point)))


def _line(point: Point) -> str:
    # Every field is a float: a name that is once an integer and once a float would be refused.
    fields = {
        _field(name): float(value) for name, value in point.values.items() if math.isfinite(value)
    }
    fields.pop("", None)
    if not fields:
        return ""
    fields.setdefault("step", float(point.step))
    texts = ",".join(f"{name}={value!r}" for name, value in fields.items())
    return f"{texts} {round(point.time * 1e9)}"


def _field(name: str) -> str:
    escaped = _escape(name)
    return f"{escaped}_" if escaped in _RESERVED else escaped


def _escape(text: str) -> str:
    """``text`` as a tag or a field's name, without backslashes that would escape what follows."""
    clean = _LOOSE_BACKSLASHES.sub("", _CONTROL.sub(" ", text).strip())
    return _ESCAPED.sub(r"\\\1", clean)
