"""What rules judge: a run as the store shows it, and Lineside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lineside.store.history.checkpoints import Checkpoint
from lineside.store.history.records import EventRow, Run
from lineside.subscribers.watchdog.archive_track import ArchiveTrack
from lineside.subscribers.watchdog.loss_track import LossTrack
from lineside.subscribers.watchdog.series import NonFinite, StepTimes, Window

TRAINING_PHASES = frozenset({"training", "waiting"})
"""The phases in which a training takes steps."""


FORGOTTEN_SECONDS = 30 * 86_400.0
"""For so long a run is followed while a checkpoint waits for the archive and none is reported."""


@dataclass
class RunObservation:
    """A run at ``now`` (seconds since the epoch), with what is kept of its newest attempt.

    ``facts`` are those of its ``run_start``. ``gpus`` and ``disks`` have the samples of each host's
    sampler: metrics of GPUs and of file systems by name. ``errors`` has the newest
    ``subscriber_error`` of each subscriber, ``exit`` the data of its ``process_exit``.
    ``interruptions`` counts evaluations and saves since the reading before.
    """

    run: Run
    now: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    non_finite: dict[str, NonFinite] = field(default_factory=dict)
    losses: dict[str, LossTrack] = field(default_factory=dict)
    step_times: StepTimes = field(default_factory=StepTimes)
    gpus: dict[str, dict[str, Window]] = field(default_factory=dict)
    disks: dict[str, dict[str, Window]] = field(default_factory=dict)
    checkpoints: Sequence[Checkpoint] = ()
    archive: ArchiveTrack = field(default_factory=ArchiveTrack)
    errors: dict[str, EventRow] = field(default_factory=dict)
    exit: Mapping[str, Any] | None = None
    interruptions: int = 0

    @property
    def is_active(self) -> bool:
        """Whether the run has no known end."""
        return self.run.accepts_commands

    @property
    def is_stepping(self) -> bool:
        """Whether it takes steps now: no evaluation, no save, no pause, not stalled."""
        return self.run.status == "running" and self.run.phase in TRAINING_PHASES

    @property
    def awaiting_archive(self) -> list[Checkpoint]:
        """The checkpoints that are yet to be archived.

        None after ``FORGOTTEN_SECONDS`` without a report of one: the run has no archive any more.
        """
        waiting = [one for one in self.checkpoints if one.awaits_archive]
        reports = [one.state_at.timestamp() for one in self.checkpoints if one.state_at]
        return waiting if self.now - max(reports, default=0.0) < FORGOTTEN_SECONDS else []

    @property
    def host(self) -> str:
        """The machine of rank 0; empty if it is not known."""
        process = self.facts.get("process")
        return str(process.get("host") or "") if isinstance(process, dict) else ""

    def argument(self, name: str) -> Any:
        """The value of one of the ``TrainingArguments``; None without it."""
        arguments = self.facts.get("args")
        return arguments.get(name) if isinstance(arguments, dict) else None


@dataclass(frozen=True)
class Disk:
    """A file system of the watchdog's machine: the free space of the last hour.

    ``used_for`` names what Lineside keeps there.
    """

    mount: str
    used_for: str
    size: int
    available: Window


@dataclass(frozen=True)
class CursorLag:
    """A durable reader of the broker: for how many seconds an event has waited for it, and for how
    many it has confirmed none."""

    name: str
    seconds: float
    silence: float = 0.0


@dataclass(frozen=True)
class StackObservation:
    """Lineside itself at ``now``, as seen from the watchdog's machine.

    ``broker_silence`` is for how many seconds no broker has answered, ``broker_problem`` why.
    ``was_asleep`` is whether the machine slept, or its clock was set, a moment ago;
    ``watched_for`` is for how many seconds all this was watched without a break.
    ``store_problem`` is why the store cannot be read. ``recorder_lag`` is for how many seconds
    the recorder has been behind. ``spool_waiting`` events wait in the spool; ``spool_silence``
    is for how many seconds those of one stream have waited without one being confirmed.
    ``runs`` are all that were read last. ``failing_targets`` has, for each target that took no
    notification at the last attempt, a sentence with the reason.
    """

    now: float
    broker: str
    broker_silence: float = 0.0
    broker_problem: str = ""
    was_asleep: bool = False
    watched_for: float = math.inf
    store_problem: str = ""
    recorder_lag: float = 0.0
    recorder_entries: int = 0
    spool: str = ""
    spool_silence: float = 0.0
    spool_waiting: int = 0
    disks: Sequence[Disk] = ()
    cursors: Sequence[CursorLag] = ()
    runs: Sequence[RunObservation] = ()
    failing_targets: Mapping[str, str] = field(default_factory=dict)

    @property
    def can_judge_silence(self) -> bool:
        """Whether the silence of a run is its own."""
        return not self.broker_silence and not self.was_asleep
