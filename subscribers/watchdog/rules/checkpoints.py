"""Rules about checkpoints."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from pydantic import Field

from lineside.store.history.checkpoints import Checkpoint
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, RunRule, hold

RHYTHM_SAVES = 4
"""So many saves of an attempt show a rhythm, where the arguments have none."""


class CheckpointOverdue(RunRule):
    name = "checkpoint_overdue"
    doc = (
        "a training has gone on without a checkpoint for many more steps than `save_steps`, or "
        "than from one to the next before; with `save_strategy` `no` or `best` none is due"
    )
    for_: float = hold(60)
    factor: float = Field(
        default=2.0, gt=1, description="So many times the usual steps without a checkpoint."
    )

    def judge(self, run: RunObservation) -> Findings:
        if not run.is_active:
            return []
        if not run.is_stepping:
            return None
        usual, step = _steps_between(run), run.run.step
        if usual is None or step is None:
            return []
        last = max((one.step for one in _own(run)), default=None)
        attempt = run.run.attempts[-1]
        since = step - (last if last is not None else attempt.resumed_step or 0)
        if since <= self.factor * usual:
            return []
        newest = "none in this attempt" if last is None else f"the newest is of step {last:,}"
        return [
            Finding(
                f"no checkpoint for {since:,} steps, usual are {usual:,.0f}: {newest}",
                f"lineside save {run.run.id}",
                details={"checkpoint_step": last, "usual_steps": usual},
            )
        ]


def _own(run: RunObservation) -> list[Checkpoint]:
    attempt = run.run.attempts[-1].attempt
    return [one for one in run.checkpoints if one.attempt == attempt]


def _steps_between(run: RunObservation) -> float | None:
    """The usual steps from one checkpoint to the next; None if there is no rhythm."""
    strategy = str(run.argument("save_strategy") or "").rpartition(".")[2].lower()
    if strategy in ("no", "best"):
        return None
    every = run.argument("save_steps")
    if strategy == "steps" and isinstance(every, (int, float)) and every > 0:
        if every >= 1:
            return float(every)
        return every * run.run.max_steps if run.run.max_steps else None
    steps = sorted({one.step for one in _own(run)})
    if len(steps) < RHYTHM_SAVES:
        return None
    return float(median(after - before for before, after in pairwise(steps)))
