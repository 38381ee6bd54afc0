"""Points of one stream of a run that are sent together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

FORMAT = 1
"""The version of the body of a batch."""


@dataclass(frozen=True)
class Point:
    """The numbers of one event by name. ``(stream, seq)`` identifies it for ever."""

    seq: int
    step: int
    epoch: float | None
    time: float
    """Seconds since the epoch, at the training."""
    values: Mapping[str, float | int]


@dataclass(frozen=True)
class Batch:
    """Points of one stream, in its order."""

    run: str
    name: str
    project: str
    producer: str
    attempt: str
    points: Sequence[Point]

    @property
    def stream(self) -> str:
        """The stream's name, ``run/producer/attempt``."""
        return f"{self.run}/{self.producer}/{self.attempt}"

    @cached_property
    def key(self) -> str:
        """The same for the same batch, however often it is sent, and for no other."""
        return hashlib.sha256(_dump(self._content()).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """The body of a request, in which NaN, Infinity and -Infinity are texts."""
        return {"version": FORMAT, "key": self.key, **self._content()}

    def dump(self) -> bytes:
        """The body as bytes."""
        return _dump(self.to_json()).encode()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Batch:
        """The batch of a body."""
        points = [
            Point(
                one["seq"],
                one["step"],
                one["epoch"],
                one["time"],
                {
                    name: float(value) if isinstance(value, str) else value
                    for name, value in one["values"].items()
                },
            )
            for one in body["points"]
        ]
        return cls(
            body["run"], body["name"], body["project"], body["producer"], body["attempt"], points
        )

    def _content(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "name": self.name,
            "project": self.project,
            "producer": self.producer,
            "attempt": self.attempt,
            "stream": self.stream,
            "first_seq": self.points[0].seq,
            "last_seq": self.points[-1].seq,
            "n": len(self.points),
            "points": [
                {
                    "seq": one.seq,
                    "step": one.step,
                    "epoch": one.epoch,
                    "time": one.time,
                    "values": {name: json_number(value) for name, value in one.values.items()},
                }
                for one in self.points
            ],
        }


def json_number(value: float | int) -> float | int | str:
    """``value`` for JSON, which has no number that is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
