"""Rules about the status of a run, as the page shows it."""

from __future__ import annotations

from typing import ClassVar

from lineside.subscribers.watchdog.alert import Severity
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, RunRule, hold, severity

ENDED_SECONDS = 86_400.0
"""How long the alert about an end or a silence stays open, if the run does not go on before."""

MAX_LAG = 100
"""A training of which more events are on their way may have advanced since."""


class _StatusRule(RunRule):
    statuses: ClassVar[tuple[str, ...]]

    def judge(self, run: RunObservation) -> Findings:
        record = run.run
        if record.status not in self.statuses:
            return []
        if run.now - (record.ended_at or record.updated_at).timestamp() > ENDED_SECONDS:
            return []
        at_step = "" if record.step is None else f" at step {record.step:,}"
        reason = f": {record.reason}" if record.reason else ""
        return [Finding(f"{record.status}{at_step}{reason}", f"lineside show {record.id}")]


class Lost(_StatusRule):
    name = "lost"
    doc = "the training's process is gone and did not report why, until the run is continued"
    statuses = ("lost",)
    severity: Severity = severity("critical")
    for_: float = hold(10)


class Failed(_StatusRule):
    name = "failed"
    doc = "the training has failed or was killed, until the run is continued"
    statuses = ("failed", "killed")
    severity: Severity = severity("critical")
    for_: float = hold(10)


class Stalled(_StatusRule):
    name = "stalled"
    doc = (
        "the process is alive and calls no hook: for ten of its steps (30 s at least), or for ten "
        "minutes in an evaluation, a save or its first steps"
    )
    statuses = ("stalled",)
    judges_silence = True
    severity: Severity = severity("critical")
    for_: float = hold(15)

    def judge(self, run: RunObservation) -> Findings:
        # After a time without a broker a heartbeat comes before the steps that wait in the spool.
        return None if run.run.loss_account.lag > MAX_LAG else super().judge(run)


class Disconnected(_StatusRule):
    name = "disconnected"
    doc = "nothing was received of a running training, and no end of it either"
    statuses = ("disconnected",)
    judges_silence = True
    for_: float = hold(60)
