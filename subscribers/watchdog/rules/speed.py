"""Rules about how fast a training is, against its own earlier speed."""

from __future__ import annotations

from statistics import median

from pydantic import Field

from lineside.subscribers.watchdog.alert import Severity
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import (
    Finding,
    Findings,
    RunRule,
    Undecided,
    hold,
    severity,
)
from lineside.subscribers.watchdog.rules.wording import percent, seconds

RECENT_MINUTES = 3
"""The present speed is the median of so many minutes with steps."""
EARLIER_MINUTES, EARLIER_STEPS = 5, 20
"""It is compared if there are so many minutes and steps before."""
DATA_MINUTES, DATA_STEPS = 5, 20
"""The wait for data is that of so many minutes, with so many steps at least."""


class ThroughputFell(RunRule):
    name = "throughput_fell"
    doc = (
        "a step takes much longer than it did earlier in this attempt: the medians of minutes, so "
        "pauses, evaluations and saves do not count, nor does the first minute"
    )
    for_: float = hold(120)
    ratio: float = Field(
        default=0.5, gt=0, lt=1, description="Open below this part of the earlier speed."
    )

    def judge(self, run: RunObservation) -> Findings:
        if not run.is_active:
            return []
        minutes = list(run.step_times.minutes)
        recent, earlier = minutes[-RECENT_MINUTES:], minutes[:-RECENT_MINUTES]
        steps = sum(minute.steps for minute in earlier)
        if not run.is_stepping:
            return None
        if len(earlier) < EARLIER_MINUTES or steps < EARLIER_STEPS:
            return [Undecided("")]
        before = median(minute.step for minute in earlier)
        now_takes = median(minute.step for minute in recent)
        if now_takes * self.ratio <= before:
            return []
        return [
            Finding(
                f"a step takes {seconds(now_takes)}, before {seconds(before)}: "
                f"{percent(before / now_takes)} of the earlier speed",
                f"lineside show {run.run.id}",
                details={"step_seconds": now_takes, "earlier_step_seconds": before},
            )
        ]


class DataLoaderBound(RunRule):
    name = "data_loader_bound"
    doc = (
        "the time between two steps is a large part of the whole: the training waits for its data. "
        "Minutes in which evaluations or saves follow many of the steps do not count"
    )
    severity: Severity = severity("info")
    for_: float = hold(300)
    share: float = Field(default=0.5, gt=0, lt=1, description="Open above this part of the time.")
    step_seconds: float = Field(
        default=0.02, ge=0, description="Only where a step takes so long, with its wait."
    )

    def judge(self, run: RunObservation) -> Findings:
        if not run.is_active:
            return []
        if not run.is_stepping:
            return None
        minutes = list(run.step_times.minutes)[-DATA_MINUTES:]
        steps = sum(minute.steps for minute in minutes)
        if len(minutes) < DATA_MINUTES or steps < DATA_STEPS:
            return [Undecided("")]
        if any(minute.is_interrupted for minute in minutes):
            return []
        wait = median(minute.wait for minute in minutes)
        compute = median(minute.compute for minute in minutes)
        if wait + compute < self.step_seconds or wait <= self.share * (wait + compute):
            return []
        return [
            Finding(
                f"{percent(wait / (wait + compute))} of the time is a wait for data: "
                f"{seconds(wait)} between two steps, {seconds(compute)} in a step",
                f"lineside show {run.run.id}",
                details={
                    "wait_seconds": wait,
                    "compute_seconds": compute,
                    "dataloader_num_workers": run.argument("dataloader_num_workers"),
                },
            )
        ]
