"""Decides which checkpoints of a run an archive keeps, and why.

Pure: what is known of the checkpoints goes in, a decision for each comes out. A rule only adds
reasons to keep a checkpoint, so no two rules can disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lineside.bus.checkpoints.metric_direction import AUTO, MAX, better

LAST = "last"
BEST = "best"
PINNED = "pinned"
RESUMED_FROM = "resumed_from"
NEWEST = "newest"  # among the newest save_total_limit
EVERY_STEPS = "every_steps"
EVERY_HOURS = "every_hours"
UNRANKED = "unranked"  # no checkpoint has the metric yet: none is removed for it
DAMAGED = "damaged"  # in the archive, and not whole: a person decides
ALL = "all"  # no option limits what is kept

REASONS = (
    *(LAST, BEST, PINNED, RESUMED_FROM, NEWEST, EVERY_STEPS, EVERY_HOURS),
    *(UNRANKED, DAMAGED, ALL),
)
"""Every reason to keep a checkpoint, in the order of a decision's reasons."""


@dataclass(frozen=True)
class KeepOptions:
    """What to keep. The last whole checkpoint and pinned ones are kept whatever is set here.

    ``save_total_limit`` newest, ``keep_best`` best for each metric of ``monitor``, the first of
    each multiple of ``every_steps`` and of each ``every_hours`` of the clock (UTC) are kept
    together: one does not take another's place. 0 switches a rule off; with all of them off,
    everything is kept. ``frequency`` and ``save_best_only`` pass on fewer checkpoints to these
    rules: every so-many-th one of an attempt, and those that were the best when they were saved.
    """

    save_total_limit: int = 0
    keep_best: int = 0
    monitor: Sequence[str] = ()
    mode: str = AUTO
    save_best_only: bool = False
    every_steps: int = 0
    every_hours: float = 0.0
    frequency: int = 1


@dataclass(frozen=True)
class KnownCheckpoint:
    """What is known of one save of a checkpoint: a later save of the same step is another one.

    ``is_whole`` is False for one that cannot be restored. ``number`` counts the saves of its
    attempt from 1; 0 if unknown. ``time`` is when it was saved, in seconds since the epoch.
    ``turn`` counts the saves of its attempt too, and that of a later save of the step is another.
    """

    attempt: str
    step: int
    path: str
    time: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_archived: bool = False
    is_whole: bool = True
    is_pinned: bool = False
    is_resumed_from: bool = False
    number: int = 0
    turn: int = 0

    @property
    def order(self) -> tuple[str, int, float, int, str]:
        """Sorts by the order of saving: within an attempt not by the clock, which may be set back.

        The name of an attempt begins with its time.
        """
        return (self.attempt, self.turn, self.time, self.step, self.path)


class Decision(NamedTuple):
    """Whether a checkpoint is kept: by the reasons in ``keep``; empty if not.

    ``is_best`` and ``is_last`` mark one checkpoint of the run each (for several metrics, one each).
    """

    checkpoint: KnownCheckpoint
    keep: tuple[str, ...]
    is_best: bool
    is_last: bool


def decide(checkpoints: Sequence[KnownCheckpoint], options: KeepOptions) -> list[Decision]:
    """A decision for each of ``checkpoints``, all of one run, newest first.

    What is archived is kept until what takes its place is archived too: a checkpoint that still
    has to be copied removes none.
    """
    ordered = sorted(checkpoints, key=lambda one: one.order)
    whole = [one for one in ordered if one.is_whole]
    wanted = _reasons(whole, options)
    present = _reasons([one for one in whole if one.is_archived], options)
    best = {id(ranked[0]) for ranked in _rankings(_latest_saves(whole), options) if ranked}
    decisions = []
    for one in reversed(ordered):
        reasons = wanted.get(id(one), set()) | present.get(id(one), set()) | _own_reasons(one)
        decisions.append(
            Decision(
                one,
                tuple(reason for reason in REASONS if reason in reasons),
                is_best=id(one) in best,
                is_last=bool(whole) and one is whole[-1],
            )
        )
    return decisions


def _own_reasons(one: KnownCheckpoint) -> set[str]:
    reasons = {
        PINNED: one.is_pinned,
        RESUMED_FROM: one.is_resumed_from,
        DAMAGED: one.is_archived and not one.is_whole,
    }
    return {reason for reason, holds in reasons.items() if holds}


def _reasons(whole: list[KnownCheckpoint], options: KeepOptions) -> dict[int, set[str]]:
    """The reasons of the rules for each of ``whole`` checkpoints, oldest first, by identity."""
    reasons: dict[int, set[str]] = {}

    def keep(kept: Sequence[KnownCheckpoint], reason: str) -> None:
        for one in kept:
            reasons.setdefault(id(one), set()).add(reason)

    latest = _latest_saves(whole)
    keep(latest[-1:], LAST)
    eligible = [one for one in latest if one.number % options.frequency == 0]
    rankings = _rankings(eligible, options)
    if (options.keep_best or options.save_best_only) and not (rankings and all(rankings)):
        keep(eligible, UNRANKED)
    if options.save_best_only:
        eligible = _improvements(eligible, options)
    if options.save_total_limit:
        keep(eligible[-options.save_total_limit :], NEWEST)
    if options.keep_best:
        for ranked in _rankings(eligible, options):
            keep(ranked[: options.keep_best], BEST)
    if options.every_steps:
        keep(_firsts(eligible, [one.step // options.every_steps for one in eligible]), EVERY_STEPS)
    if options.every_hours:
        seconds = options.every_hours * 3600
        keep(_firsts(eligible, [int(one.time // seconds) for one in eligible]), EVERY_HOURS)
    if not (
        options.save_total_limit or options.keep_best or options.every_steps or options.every_hours
    ):
        keep(eligible, ALL)
    return reasons


def _latest_saves(ordered: list[KnownCheckpoint]) -> list[KnownCheckpoint]:
    """``ordered`` without the saves of a step that a later save of it replaces."""
    latest = {(one.attempt, one.step, one.path): one for one in ordered}
    return sorted(latest.values(), key=lambda one: one.order)


def _rankings(ordered: list[KnownCheckpoint], options: KeepOptions) -> list[list[KnownCheckpoint]]:
    """For each metric the checkpoints that have a value of it, the best first."""
    rankings = []
    for metric in options.monitor:
        sign = _sign(metric, options.mode)
        values = [
            (sign * value, one) for one in ordered if (value := _value(one, metric)) is not None
        ]
        rankings.append([one for _, one in sorted(values, key=lambda pair: pair[0])])
    return rankings


def _improvements(ordered: list[KnownCheckpoint], options: KeepOptions) -> list[KnownCheckpoint]:
    """The checkpoints that were better in a metric than all before them."""
    improved = set()
    for metric in options.monitor:
        sign, best = _sign(metric, options.mode), math.inf
        for one in ordered:
            value = _value(one, metric)
            if value is not None and sign * value < best:
                best = sign * value
                improved.add(id(one))
    return [one for one in ordered if id(one) in improved]


def _firsts(ordered: list[KnownCheckpoint], periods: list[int]) -> list[KnownCheckpoint]:
    """The first checkpoint of each period but that numbered 0, in which nothing is due yet."""
    firsts: dict[int, KnownCheckpoint] = {}
    for one, period in zip(ordered, periods, strict=True):
        if period:
            firsts.setdefault(period, one)
    return list(firsts.values())


def _value(one: KnownCheckpoint, metric: str) -> float | None:
    """Its value of ``metric``; None if it has none that can be compared, such as NaN."""
    value = one.metrics.get(metric)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and value is not None and math.isfinite(value) else None


def _sign(metric: str, mode: str) -> int:
    """What to multiply values of ``metric`` with so that a lower one is better."""
    return -1 if better(metric, mode) == MAX else 1
