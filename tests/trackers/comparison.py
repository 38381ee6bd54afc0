"""What a tracker holds of a training, and how two of these differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass
class Record:
    """The content of one tracker's store, read with the tracker's own means."""

    points: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    """Steps and values by key, in the tracker's order."""
    times: dict[str, list[float]] = field(default_factory=dict)
    """Seconds since the epoch of the points, where the tracker keeps them."""
    details: dict[str, Any] = field(default_factory=dict)
    """All else by a path such as ``config/max_steps``, ``tag/x``, ``status`` or ``runs``."""

    def add(self, key: str, step: int, value: Any, time: float | None = None) -> None:
        self.points.setdefault(key, []).append((step, value))
        if time is not None:
            self.times.setdefault(key, []).append(time)

    def add_details(self, prefix: str, values: Mapping[str, Any]) -> None:
        """Add nested mappings, one path for each leaf."""
        for name, value in values.items():
            path = f"{prefix}/{name}"
            if isinstance(value, Mapping) and value:
                self.add_details(path, value)
            else:
                self.details[path] = value

    def repeated(self) -> dict[str, list[tuple[Any, ...]]]:
        """Points that are there more than once, with the same time where times are kept."""
        found = {}
        for key, points in self.points.items():
            times = self.times.get(key, [0.0] * len(points))
            whole = [(*point, time) for point, time in zip(points, times, strict=True)]
            twice = [p for i, p in enumerate(whole) if any(same(p, q) for q in whole[:i])]
            if twice:
                found[key] = twice
        return found


def same(left: Any, right: Any) -> bool:
    """Whether both are equal to the last bit; NaN equals NaN."""
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


TIME_TOLERANCE = 5.0
"""Seconds between a callback's own time and that of the event: both hooks run in one step."""


def differences(in_process: Record, hosted: Record) -> dict[str, tuple[Any, Any]]:
    """What differs, by path: ``points/KEY``, ``times/KEY`` or the path of a detail."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(in_process.points.keys() | hosted.points.keys()):
        left, right = in_process.points.get(key), hosted.points.get(key)
        if not same(left, right):
            found[f"points/{key}"] = (left, right)
    for key in in_process.times.keys() & hosted.times.keys():
        left_times, right_times = in_process.times[key], hosted.times[key]
        if any(abs(a - b) > TIME_TOLERANCE for a, b in zip(left_times, right_times, strict=False)):
            found[f"times/{key}"] = (left_times, right_times)
    for path in sorted(in_process.details.keys() | hosted.details.keys()):
        left, right = in_process.details.get(path), hosted.details.get(path)
        if not same(left, right):
            found[path] = (left, right)
    return found


def result(found: Mapping[str, tuple[Any, Any]], explained: Mapping[str, str]) -> str:
    """``equal``, or ``equal but for`` the explanations of what differs.

    ``explained`` has a sentence for each pattern of paths; without a sentence the difference lies
    in the test itself, such as the folder of the store.

    Raises:
        AssertionError: a difference has no explanation, or an explanation has no difference.
    """
    rest = {
        path: values
        for path, values in found.items()
        if not any(fnmatchcase(path, pattern) for pattern in explained)
    }
    assert not rest, "differs without an explanation:\n" + "\n".join(
        f"  {path}: in-process {left!r}, hosted {right!r}" for path, (left, right) in rest.items()
    )
    unused = [p for p in explained if explained[p] and not any(fnmatchcase(f, p) for f in found)]
    assert not unused, f"explained, but equal: {unused}"
    sentences = list(dict.fromkeys(sentence for sentence in explained.values() if sentence))
    return "equal but for " + "; ".join(sentences) if sentences else "equal"
