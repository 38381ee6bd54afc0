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
_FAILURES = frozenset({FAILED, INTERRUPTED, LOST})
_EXITED_EARLY = "the process exited before training ended"
_SHELL_SIGNAL = 128  # what a shell adds to a signal's number to make an exit code
# What a rank raises of which a peer is gone. One that timed out waited for a peer that lived.
_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset) by|broken pipe|remote process exit"
    r"|failed to (recv, got|send, sent) 0 bytes",  # of torch's store, that rank 0 keeps
    re.IGNORECASE,
)
DETECTION_SECONDS = 5.0
"""So soon a shipper that watches a process notices that it vanished."""


@dataclass(slots=True)
class RankState:
    """What is known of one rank's process in one attempt.

    ``began`` and ``ended`` are train_begin and train_end; ``how`` is run_end's, or RAISED from
    train_error on; ``error`` is theirs, as ``Type: message``, and ``traceback``. ``lost`` is the
    shipper's word that the process is gone without having said so. ``ended_at`` is the time of the
    newest of these, seconds since the epoch. ``stopped_by``, in the attempt's control stream, says
    which command ended training. ``has_pending_events``: events of it are known of and still on
    their way, as
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
    has_pending_events: bool = False


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How the command ended that ``lineside run`` had started.

    ``out_of_memory``: the kernel killed a process beside it for want of memory meanwhile.
    """

    code: int | None
    signal: str | None
    exited_at: float
    out_of_memory: bool = False

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it, also where a shell in between made an exit code of it."""
        name = self.signal or _shell_signal(self.code)
        return f"{name} (out of memory)" if name == "SIGKILL" and self.out_of_memory else name


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, the reason where it needs one, and since when if it is an end.

    ``cause`` is the producer whose failure it was: whose exception, if there was one.
    """

    status: str
    reason: str | None = None
    ended_at: float | None = None
    cause: str | None = None


def judge_rank(rank: RankState, *, out_of_memory: bool = False) -> Verdict:
    """How one process stands, by its own word and the shipper's.

    A process that exits in the middle of training failed, even if it did so quietly. One that
    vanished did so for want of memory if the kernel killed for that.
    """
    if rank.how in ("exception", RAISED):
        return _judge_error(rank)
    if rank.how == "restarted":
        return Verdict(FINISHED if rank.ended else SUPERSEDED, None, rank.ended_at)
    if rank.how is not None:
        if rank.ended or not rank.began:
            return Verdict(FINISHED, None, rank.ended_at)
        return Verdict(FAILED, _EXITED_EARLY, rank.ended_at)
    if rank.ended:
        return Verdict(FINISHED, None, rank.ended_at)
    if rank.lost and not rank.has_pending_events:
        at_step = f" at step {rank.step}" if rank.step is not None else ""
        why = " (out of memory)" if out_of_memory else ""
        return Verdict(LOST, f"the process vanished{at_step}{why}", rank.ended_at)
    return Verdict(RUNNING)


def judge_attempt(
    ranks: Mapping[str, RankState],
    process_exit: ProcessExit | None = None,
    stopped_by: str | None = None,
) -> Verdict:
    """How one attempt stands: as its rank 0, with the first rank to fail as the cause.

    ``stopped_by`` says which command had it stop. An abnormal end of the command, or of any rank,
    is never shown as finished.
    """
    rank = ranks.get(RANK_0, RankState())
    out_of_memory = process_exit is not None and process_exit.out_of_memory
    if process_exit is not None and _outlived(rank, process_exit):
        process_exit = None  # what ended was not the training, which went on
    own = judge_rank(rank, out_of_memory=out_of_memory)
    if own.status == SUPERSEDED:
        return own
    if own.status in (FAILED, INTERRUPTED):
        own = replace(own, cause=RANK_0)
    if own.status == FINISHED and stopped_by is not None and rank.ended:
        own = replace(own, status=STOPPED, reason=stopped_by)
    failed = [
        replace(verdict, cause=name)
        for name, one in ranks.items()
        if (verdict := judge_rank(one, out_of_memory=out_of_memory)).status in _FAILURES
    ]
    verdict = _with_cause(own, _first_to_fail(failed))
    return verdict if process_exit is None else _with_exit(verdict, rank, process_exit)


def judge_run(newest: Verdict | None) -> Verdict:
    """How a run stands: as its newest attempt; one that was given up is being started again."""
    if newest is None:
        return Verdict(RUNNING)
    if newest.status == SUPERSEDED:
        return Verdict(RUNNING, "being started again")
    return newest


def _outlived(rank: RankState, process_exit: ProcessExit) -> bool:
    """Whether the process went on after the command that had started it ended.

    A little longer is nothing: its end is noticed late, or its clock is not the command's.
    """
    return (rank.ended_at or 0.0) - process_exit.exited_at > DETECTION_SECONDS


def _judge_error(rank: RankState) -> Verdict:
    error = rank.error or "an exception"
    if error.partition(":")[0] == KeyboardInterrupt.__name__:
        return Verdict(INTERRUPTED, f"SIGINT ({KeyboardInterrupt.__name__})", rank.ended_at)
    return Verdict(FAILED, error, rank.ended_at)


def _first_to_fail(failed: list[Verdict]) -> Verdict | None:
    """The rank whose failure came first carries the true cause: the others lost a connection.

    If it vanished, what others raised of that is told too. They may do so before anybody else has
    noticed.
    """
    in_order = sorted(failed, key=lambda verdict: (verdict.ended_at or 0.0, verdict.cause))
    vanished = next((verdict for verdict in in_order if verdict.status == LOST), None)
    raised = next((verdict for verdict in in_order if verdict.status != LOST), None)
    if vanished is None or raised is None:
        return _with_producer(vanished or raised)
    noticed_after = (vanished.ended_at or 0.0) - (raised.ended_at or 0.0)
    lost_a_peer = raised.status == FAILED and _LOST_PEER.search(raised.reason or "")
    if noticed_after > (DETECTION_SECONDS if lost_a_peer else 0.0):
        return _with_producer(raised)
    reason = f"{vanished.cause}: {vanished.reason}; {raised.cause}: {raised.reason}"
    return replace(raised, reason=reason)


def _with_producer(verdict: Verdict | None) -> Verdict | None:
    if verdict is None or verdict.cause == RANK_0:
        return verdict
    return replace(verdict, reason=f"{verdict.cause}: {verdict.reason}")


def _with_cause(own: Verdict, cause: Verdict | None) -> Verdict:
    if cause is None or own.status == INTERRUPTED:
        return own
    # When one rank has left train(), training is over even before the others notice. Of one that
    # only vanished they may still say more.
    if own.status in (FINISHED, STOPPED) or (own.status == RUNNING and cause.status != LOST):
        return cause
    # A launcher ends the other ranks when one fails: rank 0 then vanished of that failure. And a
    # Ctrl-C reaches all of them, but one may have missed another's answer before.
    follows = own.status == LOST or (own.status, cause.status) == (FAILED, INTERRUPTED)
    return replace(cause, status=cause.status if follows else own.status, ended_at=own.ended_at)


def _with_exit(verdict: Verdict, own: RankState, process_exit: ProcessExit) -> Verdict:
    after = " after training had ended" if own.ended else ""
    if verdict.status in (FAILED, INTERRUPTED):
        return verdict
    if verdict.status == STOPPED:
        exit_text = process_exit.signal_name or (
            f"exit code {process_exit.code}" if process_exit.code else None
        )
        if exit_text is None or process_exit.exited_at < (own.ended_at or 0.0):
            return verdict
        return replace(verdict, reason=f"{verdict.reason}; then {exit_text}")
    if process_exit.signal_name is not None:
        status = INTERRUPTED if process_exit.signal_name == "SIGINT" else KILLED
        return Verdict(status, f"{process_exit.signal_name}{after}", process_exit.exited_at)
    if process_exit.code:
        reason = f"exit code {process_exit.code}{after}"
        if verdict.reason:
            reason = f"{verdict.reason}; {reason}"
        return Verdict(FAILED, reason, process_exit.exited_at, verdict.cause)
    if verdict.status == RUNNING and not own.has_pending_events:
        if own.began:
            return Verdict(FAILED, _EXITED_EARLY, process_exit.exited_at)
        return Verdict(FINISHED, None, process_exit.exited_at)
    return verdict


def _shell_signal(code: int | None) -> str | None:
    if code is None or code <= _SHELL_SIGNAL:
        return None
    try:
        return signal.Signals(code - _SHELL_SIGNAL).name
    except ValueError:
        return None
