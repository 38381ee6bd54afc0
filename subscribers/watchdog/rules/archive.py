"""The rule about the archive of checkpoints."""

from __future__ import annotations

from pydantic import Field

from lineside.bus.protocol.checkpoints import COPYING, EVICTED, FAILED, WAITING
from lineside.bus.wording import agree, plural
from lineside.store.history.checkpoints import Checkpoint
from lineside.subscribers.watchdog.alert import Severity
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, RunRule, severity
from lineside.subscribers.watchdog.rules.wording import duration


class ArchiveStopped(RunRule):
    name = "archive_stopped"
    doc = (
        "a checkpoint waits for the archive, and for long none has reached it: the archiver does "
        "not run, or the archive does not answer, refuses or is full. A copy that goes on opens "
        "none, and closes none. Judged after the end of the training too"
    )
    severity: Severity = severity("critical")
    seconds: float = Field(
        default=1800.0, gt=0, description="Open if none was archived for so long."
    )

    def judge(self, run: RunObservation) -> Findings:
        waiting = run.awaiting_archive
        if not waiting:
            return []
        since = _stopped_since(run, waiting)
        if run.now - since < self.seconds:
            return []
        if any(one.state == COPYING and run.now - _at(one) < self.seconds for one in waiting):
            return None
        return [_finding(run, waiting, run.now - since)]


def _stopped_since(run: RunObservation, waiting: list[Checkpoint]) -> float:
    """Since when a checkpoint has waited without one being archived.

    With a small limit of holds those that wait are young: what was given up meanwhile waited too.
    """
    archived_at = run.archive.last_at
    waited = [*waiting, *_given_up(run)]
    first = min(one.time.timestamp() for one in waited)
    return first if archived_at is None else max(first, archived_at)


def _given_up(run: RunObservation) -> list[Checkpoint]:
    """Those that were evicted since the last one was archived."""
    since = run.archive.last_at or 0.0
    return [one for one in run.checkpoints if one.state == EVICTED and _at(one) > since]


def _finding(run: RunObservation, waiting: list[Checkpoint], seconds: float) -> Finding:
    given_up = len(_given_up(run))
    lost = f", {plural(given_up, 'other')} {agree(given_up, 'was')} given up" if given_up else ""
    why = _reason(waiting)
    return Finding(
        f"{plural(len(waiting), 'checkpoint')} {agree(len(waiting), 'waits')} for the archive, and "
        f"none has reached it for {duration(seconds)}{lost}: {why}",
        f"lineside checkpoints {run.run.id}",
        details={"waiting": len(waiting), "given_up": given_up},
    )


def _reason(waiting: list[Checkpoint]) -> str:
    """Why the newest that failed did, or else what the newest waits for."""
    newest = sorted(waiting, key=_at, reverse=True)
    for one in sorted(newest, key=lambda one: one.state != FAILED):
        if one.state == COPYING:
            return "a copy does not go on"
        if one.why:
            return one.why
    if any(one.state == WAITING for one in waiting):
        return "the archiver copies those of other runs"
    return "the archiver does not run, or has not come to them"


def _at(checkpoint: Checkpoint) -> float:
    """When the newest about it was reported."""
    return (checkpoint.state_at or checkpoint.time).timestamp()
