"""Rules about the values that a training logs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import Field

from lineside.subscribers.watchdog.alert import Severity
from lineside.subscribers.watchdog.loss_track import LossTrack
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, RunRule, hold, severity
from lineside.subscribers.watchdog.rules.wording import number
from lineside.subscribers.watchdog.series import NonFinite

LOSSES = ("loss", "train/loss", "train_loss")
"""The names of a training's loss. Of an evaluation's, a rise is overfitting and no divergence."""


def is_loss(name: str) -> bool:
    """Whether ``name`` is that of a loss: one value that is not finite is then too many."""
    return name.rpartition("/")[2].endswith("loss")


def is_policy(run: RunObservation) -> bool:
    """Whether the run learns by reward: its loss may rise while it learns."""
    return any(name.rpartition("/")[2] == "reward" for name in run.run.metrics)


def stop(run: RunObservation) -> str:
    """The command that ends a training whose weights may be worthless."""
    return f"lineside stop {run.run.id} --no-save"


class NotFinite(RunRule):
    name = "nan"
    doc = (
        "the newest value of a loss is NaN or infinite, or the newest values of another metric of "
        "rank 0 are; one `grad_norm` of NaN is enough with a loss of 0, as which `Trainer` logs a "
        "NaN. A metric that is neither a loss nor `grad_norm` is a warning at most"
    )
    severity: Severity = severity("critical")
    values: int = Field(
        default=5,
        ge=1,
        description="So many in a row of a metric that is no loss: with fp16 the first `grad_norm` "
        "values of a sound training are infinite.",
    )

    def judge(self, run: RunObservation) -> Findings:
        return list(self._findings(run)) if run.is_active else []

    def _findings(self, run: RunObservation) -> Iterator[Finding]:
        for name, found in run.non_finite.items():
            if found.in_a_row >= self._needed(run, name, found):
                # Some are NaN where they do not apply, such as the reward of another task.
                is_sign = is_loss(name) or _is_gradient(name)
                yield Finding(
                    f"{name} is {number(found.value)} since step {found.first_step:,}",
                    stop(run) if is_sign else f"lineside show {run.run.id}",
                    name,
                    None if is_sign or self.severity != "critical" else "warning",
                    details={
                        "metric": name,
                        "since_step": found.first_step,
                        "values": found.in_a_row,
                    },
                )

    def _needed(self, run: RunObservation, name: str, found: NonFinite) -> int:
        loss = run.run.loss
        is_hidden = loss is not None and loss.value == 0 and math.isnan(found.value)
        return 1 if is_loss(name) or (is_hidden and _is_gradient(name)) else self.values


def _is_gradient(name: str) -> bool:
    return name.rpartition("/")[2] == "grad_norm"


class Divergence(RunRule):
    name = "divergence"
    doc = (
        "the level of the loss (the median of ten values) is far above its best level, or above "
        "where it began: in proportion, and beyond its own noise. The first 30 values of an "
        "attempt are not judged, and within 40 values after the learning rate rose only those "
        "above where it began; nor is the loss of a training that logs a `reward`"
    )
    severity: Severity = severity("critical")
    for_: float = hold(60)
    factor: float = Field(
        default=1.5, gt=1, description="So many times the best level, or twice where it began."
    )
    noise: float = Field(
        default=6.0, ge=0, description="And so many standard deviations of its noise above it."
    )

    def judge(self, run: RunObservation) -> Findings:
        if not run.is_active or is_policy(run):
            return []
        found = (self._finding(run, name, track) for name, track in run.losses.items())
        return [finding for finding in found if finding is not None]

    def _finding(self, run: RunObservation, name: str, track: LossTrack) -> Finding | None:
        level, initial, best = track.level, track.initial, track.best
        if not track.has_enough_values or level is None or initial is None or best is None:
            return None
        margin = self.noise * track.noise
        if level > 2 * initial and level - initial > margin:
            above = f"where it began ({number(initial)})"
        elif (
            level > self.factor * best
            # It must have lost a part of what it had learned.
            and level - best > max(margin, 0.25 * (initial - best))
            and not track.has_rate_risen
        ):
            above = f"its best level {number(best)} at step {track.best_step:,}"
        else:
            return None
        return Finding(
            f"{name} is at {number(level)}, above {above}",
            stop(run),
            name,
            details={"level": level, "best": best, "best_step": track.best_step, "began": initial},
        )


class LossSpike(RunRule):
    name = "loss_spike"
    doc = (
        "one of the last three values of the loss is far above the fifty before: in proportion, "
        "beyond eight times their noise and above all of them. The first 20 values of an attempt "
        "do not count"
    )
    factor: float = Field(default=2.0, gt=1, description="So many times their median.")

    def judge(self, run: RunObservation) -> Findings:
        if not run.is_active or is_policy(run):
            return []
        return [
            Finding(
                f"{name} rose to {number(track.spike.value)} at step {track.spike.step:,}, from "
                f"{number(track.spike.usual)}",
                f"lineside show {run.run.id}",
                name,
                details={"value": track.spike.value, "usual": track.spike.usual},
            )
            for name, track in run.losses.items()
            if track.spike is not None and track.spike.value > self.factor * track.spike.usual
        ]
