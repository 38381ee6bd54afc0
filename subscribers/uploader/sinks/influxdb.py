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
_ESCAPED = re.compile(r"([,= ])")
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
    tags = {
        "run": batch.run,
        "name": batch.name,
        "project": batch.project,
        "producer": batch.producer,
        "attempt": batch.attempt,
    }
    series = MEASUREMENT + "".join(
        f",{name}={text}" for name, value in tags.items() if (text := _escape(value))
    )
    return "".join(f"{series} {line}\n" for point in batch.points if (line := _line(point)))


def _line(point: Point) -> str:
    fields = {
        name: value
        for name, value in point.values.items()
        if math.isfinite(value) and _escape(name)
    }
    if not fields:
        return ""
    # Every field is a float: a name that is once an integer and once a float would be refused.
    texts = [f"{_escape(name)}={float(value)!r}" for name, value in fields.items()]
    if "step" not in fields:
        texts.append(f"step={float(point.step)!r}")
    return f"{','.join(texts)} {round(point.time * 1e9)}"


def _escape(text: str) -> str:
    """``text`` as a tag or a field's name; a backslash at its end would escape what follows."""
    clean = _CONTROL.sub(" ", text).strip().rstrip("\\")
    return _ESCAPED.sub(r"\\\1", clean)
