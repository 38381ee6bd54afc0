"""Reads the runs that are live, or changed, from the store: what is new of each, in few queries."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Engine

from lineside.bus.errors import RunNotFound
from lineside.bus.protocol.alerts import WATCHDOG
from lineside.bus.protocol.checkpoints import STATE_KINDS
from lineside.bus.protocol.event_kinds import ALERT, CHECKPOINT_HELD, SUBSCRIBER_ERROR
from lineside.bus.protocol.events import RANK_0
from lineside.store.database.tables import METRIC, TIMING
from lineside.store.history.checkpoints import runs_awaiting_archive
from lineside.store.history.curves.new_points import NewPoint, NewPoints, read_new_points
from lineside.store.history.history import History
from lineside.store.history.records import ACTIVE_STATUSES, AlertMute, EventRow, Run
from lineside.subscribers.watchdog.alert import Alert
from lineside.subscribers.watchdog.loss_track import LossTrack
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.loss import LOSSES
from lineside.subscribers.watchdog.series import NonFinite, Window

SAMPLER = "sampler-"
"""How the names of samplers begin; the host follows."""
_LEARNING_RATE = "learning_rate"
_GPU = re.compile(r"gpu\d+/(utilization_ratio|memory_used_bytes)")
_DISK = re.compile(r"filesystem/\w+/(available_bytes|size_bytes)")
_GPU_SAMPLES, _DISK_SAMPLES = 12, 360  # at one in ten seconds: two minutes, an hour
_NEW_POINTS, _OLD_POINTS = 100, 2000  # read of a series at a time, and when a run is met
_NEW_RUNS = 50  # met at a time
_MAX_EVENTS = 50
_PAGE = 250
_START_SECONDS = 60.0  # before ``since``: a run that is silent for so long may go on
SILENT_SECONDS = 86_400.0
"""A run without a sign of life for so long is no longer followed."""
PROCESS_EXIT = "process_exit"
_INTERRUPTIONS = ("evaluate", "save")
_OF_CHECKPOINTS = {"save", CHECKPOINT_HELD, *STATE_KINDS}
_COUNTED = (*_OF_CHECKPOINTS, ALERT, SUBSCRIBER_ERROR, PROCESS_EXIT)


@dataclass
class _Followed:
    """A run that is followed, and how far it was read."""

    observation: RunObservation
    attempt: str = ""
    known: dict[int, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunChanges:
    """What one reading of the store gave.

    ``judged`` are the runs that were read; one that ended and did not change since needs no other
    look. ``gone`` are runs that are deleted, ``alerts`` new alerts of other producers.
    """

    revision: int = -1
    judged: tuple[RunObservation, ...] = ()
    gone: frozenset[str] = frozenset()
    alerts: tuple[tuple[Run, EventRow], ...] = ()


@dataclass(frozen=True)
class Responses:
    """What people did about alerts: the ids of those acknowledged, and the mutes that hold."""

    acknowledged: frozenset[str] = frozenset()
    mutes: tuple[AlertMute, ...] = ()

    def is_muted(self, alert: Alert) -> bool:
        """Whether no notification of ``alert`` is wanted now."""
        return any(mute.covers(alert.run or None, alert.rule) for mute in self.mutes)

    def is_acknowledged(self, alert: Alert) -> bool:
        """Whether a person has seen ``alert``."""
        return alert.id in self.acknowledged


class RunObserver:
    """Follows the runs of a store from revision ``after`` on; -1: those that are live now.

    Runs without a sign of life since ``since`` (seconds since the epoch), or for a day, are left
    out: no end of them is known, and none will come. Belongs to one thread.
    """

    def __init__(self, engine: Engine, after: int, since: float = 0.0) -> None:
        self._engine = engine
        self._since = since - _START_SECONDS
        self._as_of = 0.0
        self._history = History(engine, lambda: self._as_of)
        self._revision = after
        self._followed: dict[str, _Followed] = {}
        self._alerts: list[tuple[Run, EventRow]] = []

    def responses(self) -> Responses:
        """What people did about the open alerts.

        Raises:
            StoreError: the store cannot be read.
        """
        seen = (one.id for one in self._history.alerts.open(limit=_PAGE) if one.acknowledged_at)
        return Responses(frozenset(seen), tuple(self._history.alerts.mutes()))

    def read(self, now: float, as_of: float, wanted: Collection[str] = ()) -> RunChanges:
        """Read what changed; ``wanted`` are runs to follow although they have ended.

        Up to ``as_of`` the store is recorded: statuses are those of that time.

        Raises:
            StoreError: the store cannot be read.
        """
        self._as_of = as_of
        changes = self._history.changes(max(self._revision, 0))
        first = not 0 <= self._revision <= changes.revision
        if first:  # also a new store, in place of a damaged one
            self._followed.clear()
        if not self._followed:
            wanted = {*wanted, *runs_awaiting_archive(self._engine)}
        live = {run.id: run for run in self._live_runs(now)}
        changed = () if first else changes.run_ids
        ended = [run_id for run_id in changed if run_id not in live]
        missing = [
            run_id for run_id in wanted if run_id not in self._followed and run_id not in live
        ]
        gone = set()
        runs = dict(live)
        for run_id in {*ended, *missing}:
            try:
                run = self._history.run(run_id)
                if run.updated_at.timestamp() >= self._since:
                    runs[run_id] = run
            except RunNotFound:
                gone.add(run_id)
                self._followed.pop(run_id, None)
        self._alerts = []
        self._update(runs)
        judged = [one.observation for one in self._followed.values()]
        for observation in judged:
            observation.now = now
        keep = {*live, *wanted, *self._awaiting_archive()}
        for run_id in [one for one in self._followed if one not in keep]:
            del self._followed[run_id]
        self._revision = changes.revision
        return RunChanges(changes.revision, tuple(judged), frozenset(gone), tuple(self._alerts))

    def _awaiting_archive(self) -> Iterator[str]:
        """The runs that are followed, ended or not: a checkpoint waits."""
        for run_id, followed in self._followed.items():
            if followed.observation.awaiting_archive:
                yield run_id

    def _live_runs(self, now: float) -> Iterator[Run]:
        cursor, oldest = None, max(self._since, now - SILENT_SECONDS)
        while True:
            page = self._history.runs(
                statuses=ACTIVE_STATUSES, sort="-updated_at", limit=_PAGE, cursor=cursor
            )
            for run in page.items:
                if run.updated_at.timestamp() < oldest:
                    return
                yield run
            cursor = page.next
            if cursor is None:
                return

    def _update(self, runs: Mapping[str, Run]) -> None:
        active = [run_id for run_id, run in runs.items() if run.accepts_commands]
        known = [run_id for run_id in active if run_id in self._followed]
        new = [run_id for run_id in active if run_id not in self._followed]
        for run_id, run in runs.items():
            if run_id in self._followed:
                self._followed[run_id].observation.run = run
            else:
                self._followed[run_id] = _Followed(RunObservation(run, 0.0))
            self._read_events(self._followed[run_id])
        self._read_points(known, _NEW_POINTS)
        for start in range(0, len(new), _NEW_RUNS):
            self._read_points(new[start : start + _NEW_RUNS], _OLD_POINTS)

    def _read_points(self, run_ids: Collection[str], limit: int) -> None:
        if not run_ids:
            return
        known: dict[int, int] = {}
        for run_id in run_ids:
            known |= self._followed[run_id].known
        by_run: dict[str, list[NewPoints]] = {}
        for one in read_new_points(self._engine, run_ids, known, limit):
            by_run.setdefault(one.run, []).append(one)
        for run_id, found in by_run.items():
            _add_points(self._followed[run_id], found)

    def _read_events(self, followed: _Followed) -> None:
        """Read what events alone hold, if there are new ones."""
        run = followed.observation.run
        attempt = run.attempts[-1].attempt
        if attempt != followed.attempt:
            self._begin_attempt(followed, attempt)
        observation = followed.observation
        before, counts = followed.counts, run.event_counts
        new = {kind for kind in _COUNTED if counts.get(kind, 0) != before.get(kind, 0)}
        observation.interruptions = sum(
            counts.get(kind, 0) - before.get(kind, 0) for kind in _INTERRUPTIONS if before
        )
        followed.counts = counts
        if new & _OF_CHECKPOINTS:
            observation.checkpoints = self._history.checkpoints(run.id)
            observation.archive.add(observation.checkpoints)
        for row in self._newest(run.id, new & {ALERT, SUBSCRIBER_ERROR, PROCESS_EXIT}):
            data = row.data or {}
            if row.kind == ALERT and row.producer != WATCHDOG:
                self._alerts.append((run, row))
            elif row.kind == SUBSCRIBER_ERROR:
                observation.errors[str(data.get("subscriber") or row.producer)] = row
            elif row.kind == PROCESS_EXIT and data.get("attempt") == attempt:
                observation.exit = data

    def _newest(self, run_id: str, kinds: Collection[str]) -> Iterable[EventRow]:
        if not kinds:
            return ()
        page = self._history.events(run_id, kinds=sorted(kinds), before=1 << 62, limit=_MAX_EVENTS)
        return reversed(page.items)

    def _begin_attempt(self, followed: _Followed, attempt: str) -> None:
        """Begin anew: an attempt is judged by its own values."""
        before = followed.observation
        followed.attempt, followed.known = attempt, {}
        followed.observation = RunObservation(
            before.run,
            before.now,
            self._history.configuration(before.run.id, attempt),
            errors=before.errors,
            checkpoints=before.checkpoints,
            archive=before.archive,
        )


def _add_points(followed: _Followed, found: Iterable[NewPoints]) -> None:
    observation = followed.observation
    timing: dict[str, list[NewPoint]] = {}
    losses: dict[str, list[NewPoint]] = {}
    rates: list[NewPoint] = []
    for one in found:
        followed.known[one.series_id] = one.n
        points = list(one.points)
        if one.producer.startswith(SAMPLER):
            _add_samples(observation, one.producer.removeprefix(SAMPLER), one.name, points)
        elif (one.producer, one.attempt) != (RANK_0, followed.attempt):
            continue
        elif one.kind == TIMING:
            timing[one.name] = points
        elif one.kind == METRIC:
            observation.non_finite.setdefault(one.name, NonFinite()).add(points)
            if one.name in LOSSES:
                losses[one.name] = points
            elif one.name == _LEARNING_RATE:
                rates = points
    for name, points in losses.items():
        observation.losses.setdefault(name, LossTrack()).add(points, rates)
    if timing:
        observation.step_times.add(
            timing.get("compute", ()), timing.get("wait", ()), observation.interruptions
        )


def _add_samples(observation: RunObservation, host: str, name: str, points: list[NewPoint]) -> None:
    for place, pattern, size in (
        (observation.gpus, _GPU, _GPU_SAMPLES),
        (observation.disks, _DISK, _DISK_SAMPLES),
    ):
        if pattern.fullmatch(name):
            place.setdefault(host, {}).setdefault(name, Window(size)).add(points)
