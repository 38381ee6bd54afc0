"""How a run stands, judged from what its processes said. Pure: facts in, a verdict out."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"
KILLED = "killed"
LOST = "lost"
SUPERSEDED = "superseded"

RANK_0 = "rank0"
_SHELL_SIGNAL = 128  # what a shell adds to a signal's number to make an exit code


@dataclass(slots=True)
class Rank:
    """What is known of one rank's process in one attempt.

    ``began`` and ``ended`` are train_begin and train_end; ``how`` and ``error`` are run_end's;
    ``lost`` is the shipper's word that the process is gone without having said so. ``ended_at`` is
    the time of the newest of these, seconds since the epoch.
    """

    began: bool = False
    ended: bool = False
    how: str | None = None
    error: str | None = None
    lost: bool = False
    step: int | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended that ``lineside run`` had started."""

    code: int | None
    signal: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, the reason where it needs one, and since when if it is an end."""

    status: str
    reason: str | None = None
    ended_at: float | None = None


def judge_rank(rank: Rank) -> Verdict:
    """How one process stands, by its own word and the shipper's.

    A process that exits in the middle of training failed, even if it did so quietly.
    """
    if rank.how == "exception":
        return Verdict(FAILED, rank.error or "an exception", rank.ended_at)
    if rank.how == "restarted":
        return Verdict(FINISHED if rank.ended else SUPERSEDED, None, rank.ended_at)
    if rank.how is not None:
        if rank.ended or not rank.began:
            return Verdict(FINISHED, None, rank.ended_at)
        return Verdict(FAILED, "the process exited before training ended", rank.ended_at)
    if rank.ended:
        return Verdict(FINISHED, None, rank.ended_at)
    if rank.lost:
        at_step = f" at step {rank.step}" if rank.step is not None else ""
        return Verdict(LOST, f"the process vanished{at_step}", rank.ended_at)
    return Verdict(RUNNING)


def judge_attempt(ranks: Mapping[str, Rank], exit_: Exit | None = None) -> Verdict:
    """How one attempt stands: as its rank 0, with the first rank to fail as the cause.

    An abnormal end of the command, or of any rank, is never shown as finished.
    """
    own = judge_rank(ranks.get(RANK_0, Rank()))
    if own.status == SUPERSEDED:
        return own
    verdict = _with_cause(own, _first_to_fail(ranks))
    return verdict if exit_ is None else _with_exit(verdict, ranks.get(RANK_0, Rank()), exit_)


def judge_run(newest: Verdict | None) -> Verdict:
    """How a run stands: as its newest attempt; one that was given up is being started again."""
    if newest is None:
        return Verdict(RUNNING)
    if newest.status == SUPERSEDED:
        return Verdict(RUNNING, "being started again")
    return newest


def _first_to_fail(ranks: Mapping[str, Rank]) -> tuple[str, Verdict] | None:
    """The rank whose failure came first carries the true cause: the others lost a connection."""
    failed = [
        (verdict.ended_at or 0.0, name, verdict)
        for name, verdict in ((name, judge_rank(rank)) for name, rank in ranks.items())
        if verdict.status in (FAILED, LOST)
    ]
    if not failed:
        return None
    _, name, verdict = min(failed, key=lambda item: item[:2])
    return name, verdict


def _with_cause(own: Verdict, cause: tuple[str, Verdict] | None) -> Verdict:
    if cause is None or cause[0] == RANK_0:
        return own
    name, verdict = cause
    reason = f"{name}: {verdict.reason}"
    if own.status == FINISHED:
        return Verdict(verdict.status, reason, verdict.ended_at)
    # A launcher ends the other ranks when one fails: rank 0 then vanished of that failure.
    status = verdict.status if own.status == LOST else own.status
    return Verdict(status, reason, own.ended_at)


def _with_exit(verdict: Verdict, own: Rank, exit_: Exit) -> Verdict:
    after = " after training had ended" if own.ended else ""
    name = exit_.signal or _shell_signal(exit_.code)
    if verdict.status == FAILED:
        return verdict
    if name is not None:
        return Verdict(KILLED, f"{name}{after}", exit_.at)
    if exit_.code:
        reason = f"exit code {exit_.code}{after}"
        if verdict.reason:
            reason = f"{verdict.reason}; {reason}"
        return Verdict(FAILED, reason, exit_.at)
    if verdict.status == RUNNING:
        if own.began:
            return Verdict(FAILED, "the process exited before training ended", exit_.at)
        return Verdict(FINISHED, None, exit_.at)
    return verdict


def _shell_signal(code: int | None) -> str | None:
    if code is None or code <= _SHELL_SIGNAL:
        return None
    try:
        return signal.Signals(code - _SHELL_SIGNAL).name
    except ValueError:
        return None
