"""How a run stands, judged from what its processes said. Pure: facts in, a verdict out."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace

RUNNING = "running"
FINISHED = "finished"
STOPPED = "stopped"
INTERRUPTED = "interrupted"
FAILED = "failed"
KILLED = "killed"
LOST = "lost"
SUPERSEDED = "superseded"

RANK_0 = "rank0"
RAISED = "raised"
"""How a training ended whose ``train()`` raised; the process may have gone on after that."""
_UNFINISHED = "the process exited before training ended"
_SHELL_SIGNAL = 128  # what a shell adds to a signal's number to make an exit code
# What a rank raises of which a peer is gone, and how long after that the shipper may notice.
_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|remote process exited"
    r"|gloo|nccl|Dist(Backend|Network)Error",
    re.IGNORECASE,
)
_NOTICED_SECONDS = 5.0


@dataclass(slots=True)
class Rank:
    """What is known of one rank's process in one attempt.

    ``began`` and ``ended`` are train_begin and train_end; ``how`` is run_end's, or RAISED from
    train_error on; ``error`` is theirs, as ``Type: message``, and ``traceback``. ``lost`` is the
    shipper's word that the process is gone without having said so. ``ended_at`` is the time of the
    newest of these, seconds since the epoch. ``stopped_by``, in the attempt's control stream, says
    which command ended training. ``awaited``: events of it are known of and still on their way, as
    after an outage, so what others say of its end is not all there is to say.
    """

    began: bool = False
    ended: bool = False
    how: str | None = None
    error: str | None = None
    traceback: str | None = None
    lost: bool = False
    step: int | None = None
    ended_at: float | None = None
    stopped_by: str | None = None
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended that ``lineside run`` had started.

    ``out_of_memory``: the kernel killed a process beside it for want of memory meanwhile.
    """

    code: int | None
    signal: str | None
    at: float
    out_of_memory: bool = False

    @property
    def by(self) -> str | None:
        """The signal that ended it, also where a shell in between made an exit code of it."""
        name = self.signal or _shell_signal(self.code)
        return f"{name} (out of memory)" if name == "SIGKILL" and self.out_of_memory else name


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, the reason where it needs one, and since when if it is an end.

    ``cause`` is the producer whose exception it was.
    """

    status: str
    reason: str | None = None
    ended_at: float | None = None
    cause: str | None = None


def judge_rank(rank: Rank) -> Verdict:
    """How one process stands, by its own word and the shipper's.

    A process that exits in the middle of training failed, even if it did so quietly.
    """
    if rank.how in ("exception", RAISED):
        return _judge_error(rank)
    if rank.how == "restarted":
        return Verdict(FINISHED if rank.ended else SUPERSEDED, None, rank.ended_at)
    if rank.how is not None:
        if rank.ended or not rank.began:
            return Verdict(FINISHED, None, rank.ended_at)
        return Verdict(FAILED, _UNFINISHED, rank.ended_at)
    if rank.ended:
        return Verdict(FINISHED, None, rank.ended_at)
    if rank.lost and not rank.awaited:
        at_step = f" at step {rank.step}" if rank.step is not None else ""
        return Verdict(LOST, f"the process vanished{at_step}", rank.ended_at)
    return Verdict(RUNNING)


def judge_attempt(
    ranks: Mapping[str, Rank], exit_: Exit | None = None, stopped_by: str | None = None
) -> Verdict:
    """How one attempt stands: as its rank 0, with the first rank to fail as the cause.

    ``stopped_by`` says which command had it stop. An abnormal end of the command, or of any rank,
    is never shown as finished.
    """
    rank = ranks.get(RANK_0, Rank())
    own = judge_rank(rank)
    if own.status == SUPERSEDED:
        return own
    if own.status in (FAILED, INTERRUPTED):
        own = replace(own, cause=RANK_0)
    if own.status == FINISHED and stopped_by is not None and rank.ended:
        own = replace(own, status=STOPPED, reason=stopped_by)
    verdict = _with_cause(own, _first_to_fail(ranks))
    return verdict if exit_ is None else _with_exit(verdict, ranks, exit_)


def judge_run(newest: Verdict | None) -> Verdict:
    """How a run stands: as its newest attempt; one that was given up is being started again."""
    if newest is None:
        return Verdict(RUNNING)
    if newest.status == SUPERSEDED:
        return Verdict(RUNNING, "being started again")
    return newest


def _judge_error(rank: Rank) -> Verdict:
    error = rank.error or "an exception"
    if error.partition(":")[0] == KeyboardInterrupt.__name__:
        return Verdict(INTERRUPTED, f"SIGINT ({KeyboardInterrupt.__name__})", rank.ended_at)
    return Verdict(FAILED, error, rank.ended_at)


def _first_to_fail(ranks: Mapping[str, Rank]) -> tuple[str, Verdict] | None:
    """The rank whose failure came first carries the true cause: the others lost a connection.

    Of a process that vanished they may say so before anybody else has noticed.
    """
    failed = [
        (verdict.ended_at or 0.0, name, verdict)
        for name, verdict in ((name, judge_rank(rank)) for name, rank in ranks.items())
        if verdict.status in (FAILED, INTERRUPTED, LOST)
    ]
    if not failed:
        return None
    first, name, verdict = min(failed, key=lambda item: item[:2])
    if verdict.status == FAILED and _LOST_PEER.search(verdict.reason or ""):
        for at, other, lost in sorted(failed, key=lambda item: item[:2]):
            if lost.status == LOST and at <= first + _NOTICED_SECONDS:
                return other, lost
    return name, verdict


def _with_cause(own: Verdict, cause: tuple[str, Verdict] | None) -> Verdict:
    if cause is None or cause[0] == RANK_0 or own.status == INTERRUPTED:
        return own
    name, verdict = cause
    reason = f"{name}: {verdict.reason}"
    # When one rank has left train(), training is over even before the others notice. Of one that
    # only vanished they may still say more.
    if own.status in (FINISHED, STOPPED) or (own.status == RUNNING and verdict.status != LOST):
        return Verdict(verdict.status, reason, verdict.ended_at, name)
    # A launcher ends the other ranks when one fails: rank 0 then vanished of that failure. And a
    # Ctrl-C reaches all of them, but one may have missed another's answer before.
    follows = own.status == LOST or (own.status, verdict.status) == (FAILED, INTERRUPTED)
    return Verdict(verdict.status if follows else own.status, reason, own.ended_at, name)


def _with_exit(verdict: Verdict, ranks: Mapping[str, Rank], exit_: Exit) -> Verdict:
    own = ranks.get(RANK_0, Rank())
    after = " after training had ended" if own.ended else ""
    if exit_.out_of_memory and judge_rank(ranks.get(verdict.cause or RANK_0, own)).status == LOST:
        verdict = replace(verdict, reason=f"{verdict.reason} (out of memory)")
    if verdict.status in (FAILED, INTERRUPTED):
        return verdict
    if verdict.status == STOPPED:
        then = exit_.by or (f"exit code {exit_.code}" if exit_.code else None)
        return replace(verdict, reason=f"{verdict.reason}; then {then}") if then else verdict
    if exit_.by is not None:
        status = INTERRUPTED if exit_.by == "SIGINT" else KILLED
        return Verdict(status, f"{exit_.by}{after}", exit_.at)
    if exit_.code:
        reason = f"exit code {exit_.code}{after}"
        if verdict.reason:
            reason = f"{verdict.reason}; {reason}"
        return Verdict(FAILED, reason, exit_.at, verdict.cause)
    if verdict.status == RUNNING and not own.awaited:
        if own.began:
            return Verdict(FAILED, _UNFINISHED, exit_.at)
        return Verdict(FINISHED, None, exit_.at)
    return verdict


def _shell_signal(code: int | None) -> str | None:
    if code is None or code <= _SHELL_SIGNAL:
        return None
    try:
        return signal.Signals(code - _SHELL_SIGNAL).name
    except ValueError:
        return None
