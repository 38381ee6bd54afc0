"""Observations made by hand: runs as the store would show them, and curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from lineside.store.history.curves.new_points import NewPoint
from lineside.store.history.records import Attempt, LossAccount, Run
from lineside.subscribers.watchdog.loss_track import LossTrack
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import Finding, RunRule
from lineside.subscribers.watchdog.series import Window

NOW = 1_800_000_000.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, timezone.utc)


def run(status: str = "running", phase: str | None = "training", **fields: Any) -> Run:
    """A run that began an hour ago and is at step 1,000 of 5,000."""
    attempt = Attempt(
        attempt="a1",
        number=1,
        status=status,
        reason=None,
        started_at=at(-3600),
        ended_at=None,
        updated_at=at(0),
        step=1000,
        max_steps=5000,
        epoch=1.0,
        resumed_attempt=None,
        resumed_step=None,
    )
    values: dict[str, Any] = {
        "id": "run",
        "name": "a run",
        "project": "tests",
        "status": status,
        "reason": None,
        "attempts": (attempt,),
        "step": 1000,
        "max_steps": 5000,
        "epoch": 1.0,
        "started_at": at(-3600),
        "ended_at": None,
        "updated_at": at(0),
        "event_counts": {},
        "loss_account": LossAccount(),
        "metrics": {},
        "note": None,
        "tags": (),
        "phase": phase,
    }
    return Run(**values | fields)


def observed(
    status: str = "running", phase: str | None = "training", **fields: Any
) -> RunObservation:
    """A run that trains, with ``fields`` of its observation."""
    return RunObservation(run(status, phase), NOW, **fields)


def findings(rule: RunRule, observation: RunObservation) -> list[Finding]:
    """What the rule finds; it must be able to judge."""
    found = rule.judge(observation)
    assert found is not None
    return [one for one in found if isinstance(one, Finding)]


def points(values: Iterable[float], *, every: float = 10.0, first: int = 1) -> list[NewPoint]:
    """A value each ``every`` seconds, at one step each."""
    return [
        NewPoint(step, NOW - 3600 + step * every, value) for step, value in enumerate(values, first)
    ]


def losses(values: Iterable[float], rates: Sequence[float] = ()) -> LossTrack:
    """The track of a loss with these values."""
    track = LossTrack()
    track.add(points(values), points(rates))
    return track


def samples(values: Sequence[float], *, every: float = 10.0) -> Window:
    """A window whose newest sample is of now."""
    window = Window(len(values))
    count = len(values)
    window.add(
        NewPoint(0, NOW - (count - 1 - index) * every, value) for index, value in enumerate(values)
    )
    return window
