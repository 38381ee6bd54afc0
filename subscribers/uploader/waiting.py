"""The points of a run that are to be sent, in the run's durable state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lineside.bus.protocol.metric_points import MetricPoints
from lineside.subscribers import RunContext, RunEvent
from lineside.subscribers.uploader.batch import Batch, Point

FULL_BYTES = 128 << 10
"""Bytes of points that wait in the state of a run at most; it is written with every event."""
MAX_POINT_BYTES = 640 << 10
"""Bytes of one point: with what waits it must fit into the state."""


class Waiting:
    """The points of ``run`` in the order in which they came; up to ``max_batch`` make a batch.

    A batch is fixed before it is sent, so that a crash does not change it. Each row has the
    producer, the attempt and the fields of a ``Point``.
    """

    def __init__(self, run: RunContext, max_batch: int) -> None:
        self._run = run
        self._state = run.open_state()
        self._max_batch = max_batch

    @property
    def rows(self) -> list[list[Any]]:
        rows: list[list[Any]] = self._state.get("rows", [])
        return rows

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be added."""
        return len(self.rows) >= self._max_batch or self._state.get("bytes", 0) >= FULL_BYTES

    @property
    def is_fixed(self) -> bool:
        """Whether a batch may have been sent already."""
        return "fixed" in self._state

    def points(self, event: RunEvent) -> dict[str, float | int]:
        """The numbers of an event that are points, as ``MetricPoints`` defines it."""
        known: dict[str, list[Any]] = self._state.setdefault("logged", {})
        name = f"{event.producer}/{event.attempt}"
        points = MetricPoints(*known.pop(name, (None, {})))
        found = points.of(event.event)
        if points.unclaimed:
            for other in [one for one in known if one.startswith(f"{event.producer}/")]:
                del known[other]  # of an attempt before
            known[name] = [points.step, points.unclaimed]
        return found

    def add(self, event: RunEvent, values: Mapping[str, float | int], now: float) -> None:
        """Add the point of ``event``.

        Raises:
            ValueError: it is too large.
        """
        row = [
            event.producer,
            event.attempt,
            event.seq,
            event.step,
            event.epoch,
            event.time,
            dict(values),
        ]
        size = len(json.dumps(row))
        if size > MAX_POINT_BYTES:
            raise ValueError(f"a point of {size} bytes: at most {MAX_POINT_BYTES} can be sent")
        if not self.rows:
            self._state["since"], self._state["rows"] = now, []
        self.rows.append(row)
        self._state["bytes"] = self._state.get("bytes", 0) + size
        self._run.stays = True

    def fix(self, most: int) -> Batch:
        """The next batch, with at most ``most`` points: the same until ``remove`` or ``unfix``."""
        if not self.is_fixed:
            producer, attempt = self.rows[0][:2]
            mine = [row for row in self.rows if row[:2] == [producer, attempt]]
            self._state["fixed"] = {
                "producer": producer,
                "attempt": attempt,
                "n": min(len(mine), most),
                "name": self._run.name,
                "project": self._run.project,
            }
        fixed = self._state["fixed"]
        return Batch(
            self._run.id,
            fixed["name"],
            fixed["project"],
            fixed["producer"],
            fixed["attempt"],
            [Point(*row[2:]) for row in self._fixed_rows()],
        )

    def unfix(self) -> None:
        """Make the next batch anew."""
        del self._state["fixed"]

    def remove(self) -> None:
        """The fixed batch is done with."""
        gone = {id(row) for row in self._fixed_rows()}
        rows = [row for row in self.rows if id(row) not in gone]
        self._state["rows"] = rows
        self._state["bytes"] = sum(len(json.dumps(row)) for row in rows)
        del self._state["fixed"]
        self._run.stays = bool(rows)

    def _fixed_rows(self) -> Sequence[list[Any]]:
        fixed = self._state["fixed"]
        stream = [fixed["producer"], fixed["attempt"]]
        return [row for row in self.rows if row[:2] == stream][: fixed["n"]]
