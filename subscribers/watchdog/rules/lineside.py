"""Rules about Lineside itself: what keeps events from the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from lineside.bus.wording import plural
from lineside.subscribers.watchdog.alert import Severity
from lineside.subscribers.watchdog.observation import RunObservation, StackObservation
from lineside.subscribers.watchdog.rules.rule import (
    Finding,
    Findings,
    RunRule,
    StackRule,
    Undecided,
    hold,
    severity,
)
from lineside.subscribers.watchdog.rules.wording import duration

RECORDER = "recorder"
"""The recorder's name at the broker; it has a rule of its own."""
SPOOL_SECONDS = 30.0
"""A spool is read at intervals that are shorter than this."""
GONE_SECONDS = 86_400.0
"""A subscriber that confirms nothing for so long runs no more."""
SKIPPED_SECONDS = 3600.0
"""How long the alert about an event that a subscriber skipped stays open."""


class BrokerUnreachable(StackRule):
    name = "broker_unreachable"
    doc = "no broker answers; trainings go on, and their events wait in the spools"
    severity: Severity = severity("critical")
    for_: float = hold(30)

    def judge(self, stack: StackObservation) -> Findings:
        if not stack.broker_silence:
            return []
        why = f": {stack.broker_problem}" if stack.broker_problem else ""
        return [Finding(f"no broker answers at {stack.broker}{why}", "lineside doctor")]


class StoreUnreadable(StackRule):
    name = "store_unreadable"
    doc = "the run history cannot be read: no run is judged, and the page shows an error"
    severity: Severity = severity("critical")
    for_: float = hold(30)

    def judge(self, stack: StackObservation) -> Findings:
        if not stack.store_problem:
            return []
        return [Finding(stack.store_problem, "lineside doctor")]


class RecorderLagging(StackRule):
    name = "recorder_lagging"
    doc = "events wait in the broker to be recorded, so the page is late or stands still"
    severity: Severity = severity("critical")
    seconds: float = Field(default=60.0, gt=0, description="Open if it is behind for so long.")

    def judge(self, stack: StackObservation) -> Findings:
        if stack.broker_silence or stack.store_problem:
            return None
        if stack.recorder_lag < self.seconds:
            return []
        entries = plural(stack.recorder_entries, "journal entry")
        return [
            Finding(
                f"the recorder is {duration(stack.recorder_lag)} behind the broker ({entries})",
                "lineside doctor",
                details={"lag_seconds": stack.recorder_lag, "entries": stack.recorder_entries},
            )
        ]


class SpoolLagging(StackRule):
    name = "spool_lagging"
    doc = (
        "events of a process wait in this machine's spool and none is confirmed, though the broker "
        "answers; or a training has published many more events than were recorded"
    )
    seconds: float = Field(
        default=120.0, gt=0, description="Open if none is confirmed for so long."
    )
    events: int = Field(
        default=50_000, ge=1, description="Or if so many events of a training are on their way."
    )

    def judge(self, stack: StackObservation) -> Findings:
        if stack.broker_silence or stack.store_problem:
            return None
        return list(self._findings(stack))

    def _findings(self, stack: StackObservation) -> Iterator[Finding | Undecided]:
        if stack.spool_silence >= self.seconds:
            yield Finding(
                f"{plural(stack.spool_waiting, 'event')} wait in {stack.spool}, some for "
                f"{duration(stack.spool_silence)}",
                "lineside ship",
                stack.spool,
                details={"events": stack.spool_waiting},
            )
        elif stack.spool_waiting and stack.watched_for <= self.seconds + SPOOL_SECONDS:
            yield Undecided(stack.spool)
        if stack.recorder_lag:
            return  # they may all wait for the recorder
        for run in stack.runs:
            lag = run.run.loss_account.lag
            if run.is_active and lag >= self.events:
                where = f" on {run.host}" if run.host else ""
                yield Finding(
                    f"{plural(lag, 'event')} of {run.run.name} wait{where}",
                    f"lineside show {run.run.id}",
                    run.run.id,
                    details={"events": lag},
                )


class SubscriberLagging(StackRule):
    name = "subscriber_lagging"
    doc = (
        "an event has waited long in the broker for a subscriber: it is slow, or has not run for "
        "less than a day. Judged on the broker's machine"
    )
    seconds: float = Field(default=600.0, gt=0, description="Open if one waits for so long.")

    def judge(self, stack: StackObservation) -> Findings:
        if not stack.can_judge_silence:
            return None
        return [
            Finding(
                f"{cursor.name} is {duration(cursor.seconds)} behind the broker",
                "lineside doctor",
                cursor.name,
                details={"lag_seconds": cursor.seconds},
            )
            for cursor in stack.cursors
            if cursor.name != RECORDER
            and cursor.seconds >= self.seconds
            and cursor.silence < GONE_SECONDS
        ]


class SubscriberErrors(RunRule):
    name = "subscriber_errors"
    doc = (
        "a subscriber fails on an event of the run and retries it, or was stopped by it, until it "
        "succeeds; or it skipped one within the last hour"
    )

    def judge(self, run: RunObservation) -> Findings:
        return list(self._findings(run))

    def _findings(self, run: RunObservation) -> Iterator[Finding]:
        for name, row in run.errors.items():
            data: dict[str, Any] = row.data or {}
            action = data.get("action")
            if action == "recovered" or (
                action == "skipped" and run.now - row.time.timestamp() > SKIPPED_SECONDS
            ):
                continue
            error = data.get("error")
            what = f"{error.get('type')}: {error.get('message')}" if isinstance(error, dict) else ""
            yield Finding(
                f"{name} {_doing(action)} on {data.get('kind')} {data.get('seq')} of "
                f"{data.get('producer')}" + (f": {what}" if what else ""),
                f"lineside tail {run.run.id}",
                name,
                details={"error": what, "tries": data.get("tries")},
            )


def _doing(action: object) -> str:
    return {
        "retrying": "fails and retries",
        "skipped": "failed and skipped",
        "stopped": "stopped",
        "hanging": "hangs",
    }.get(str(action), "failed")
