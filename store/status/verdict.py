"""Decides the status of a run from the reports of its processes. Pure: facts in, verdict out."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lineside.bus.protocol.event_kinds import PRUNED_ERROR
from lineside.bus.protocol.events import RANK_0

RUNNING = "running"
FINISHED = "finished"
STOPPED = "stopped"
INTERRUPTED = "interrupted"
FAILED = "failed"
KILLED = "killed"
LOST = "lost"
SUPERSEDED = "superseded"

RAISED = "raised"
"""``RankState.how`` after ``train()`` raised; the process may have continued."""
_FAILURES = frozenset({FAILED, INTERRUPTED, LOST})
_EXITED_EARLY = "the process exited before training ended"
_SHELL_SIGNAL = 128  # a shell adds this to a signal's number to make an exit code
# Errors of a rank whose peer is gone. A timeout is none: it waited for a peer that was alive.
_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset) by|broken pipe|remote process exit"
    r"|failed to (recv, got|send, sent) 0 bytes",  # from torch's store, which rank 0 hosts
    re.IGNORECASE,
)
DETECTION_SECONDS = 5.0
"""The longest time until a shipper that watches a process notices its end."""


@dataclass(slots=True)
class RankState:
    """The known facts about one rank's process in one attempt.

    ``began`` and ``ended``: train_begin and train_end were recorded, or for ``ended`` an
    evaluation of a process that does not train. ``how`` is from run_end, or
    RAISED after train_error; ``error`` (``Type: message``) and ``traceback`` are from either.
    ``lost``: the shipper published process_lost. ``ended_at`` is the time of the newest of these,
    in seconds since the epoch. ``stopped_by`` names the command that ended training; only the
    state of the attempt's control stream has it. ``has_pending_events``: the process emitted
    events that are not recorded yet, so a report of its end by another process is preliminary.
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
    """How the command that ``lineside run`` started has ended.

    ``out_of_memory``: the kernel killed a process of its memory cgroup while the command ran.
    """

    code: int | None
    signal: str | None
    exited_at: float
    out_of_memory: bool = False

    @property
    def signal_name(self) -> str | None:
        """The signal that ended the command, also if a shell turned it into an exit code."""
        name = self.signal or _shell_signal(self.code)
        return f"{name} (out of memory)" if name == "SIGKILL" and self.out_of_memory else name


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, its reason if it needs one, and the time of the end if it is one.

    ``cause`` is the producer that failed first.
    """

    status: str
    reason: str | None = None
    ended_at: float | None = None
    cause: str | None = None


def judge_rank(rank: RankState, *, out_of_memory: bool = False) -> Verdict:
    """Judge one process by its own events and by the shipper's.

    A process that exits in the middle of training has failed, even without an error. Of one that
    vanished, ``out_of_memory`` becomes part of the reason.
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
    """Judge one attempt: by its rank 0, with the first rank that failed as the cause.

    ``stopped_by`` names the command that stopped it. If the command or any rank ended abnormally,
    the status is never finished.
    """
    rank = ranks.get(RANK_0, RankState())
    out_of_memory = process_exit is not None and process_exit.out_of_memory
    if process_exit is not None and _outlived(rank, process_exit):
        process_exit = None  # the command ended, the training did not
    verdict = judge_rank(rank, out_of_memory=out_of_memory)
    if verdict.status == SUPERSEDED:
        return verdict
    if verdict.status in (FAILED, INTERRUPTED):
        verdict = replace(verdict, cause=RANK_0)
    if verdict.status == FINISHED and stopped_by is not None and rank.ended:
        verdict = replace(verdict, status=STOPPED, reason=stopped_by)
    failed = [
        replace(failure, cause=name)
        for name, one in ranks.items()
        if (failure := judge_rank(one, out_of_memory=out_of_memory)).status in _FAILURES
    ]
    verdict = _with_cause(verdict, _first_to_fail(failed))
    return verdict if process_exit is None else _with_exit(verdict, rank, process_exit)


def judge_run(newest: Verdict | None) -> Verdict:
    """Judge a run by its newest attempt; a superseded one is about to be followed by another."""
    if newest is None:
        return Verdict(RUNNING)
    if newest.status == SUPERSEDED:
        return Verdict(RUNNING, "being started again")
    return newest


def _outlived(rank: RankState, process_exit: ProcessExit) -> bool:
    """Whether the process lived on after the command that started it.

    ``DETECTION_SECONDS`` or less proves nothing: its end is noticed late, by another clock.
    """
    return (rank.ended_at or 0.0) - process_exit.exited_at > DETECTION_SECONDS


def _judge_error(rank: RankState) -> Verdict:
    error = rank.error or "an exception"
    if error.partition(":")[0] == KeyboardInterrupt.__name__:
        return Verdict(INTERRUPTED, f"SIGINT ({KeyboardInterrupt.__name__})", rank.ended_at)
    if error.partition(":")[0] == PRUNED_ERROR:
        return Verdict(STOPPED, "pruned by the hyperparameter search", rank.ended_at)
    return Verdict(FAILED, error, rank.ended_at)


def _first_to_fail(failed: list[Verdict]) -> Verdict | None:
    """The failure that came first is the true cause: the other ranks lost their connection to it.

    If that rank vanished, the reason also has the first exception of another rank, which may be
    older than the shipper's report.
    """
    ordered = sorted(failed, key=lambda verdict: (verdict.ended_at or 0.0, verdict.cause))
    vanished = next((verdict for verdict in ordered if verdict.status == LOST), None)
    raised = next((verdict for verdict in ordered if verdict.status != LOST), None)
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


def _with_cause(rank_0: Verdict, cause: Verdict | None) -> Verdict:
    if cause is None or rank_0.status == INTERRUPTED:
        return rank_0
    # When one rank has left train(), training is over even before the others notice. If it only
    # vanished, the other ranks may still report more.
    if rank_0.status in (FINISHED, STOPPED) or (rank_0.status == RUNNING and cause.status != LOST):
        return cause
    # A launcher ends the other ranks when one fails: rank 0 then vanished because of it. A Ctrl-C
    # reaches all ranks, but may first make one of them lose its connection to another.
    follows = rank_0.status == LOST or (rank_0.status, cause.status) == (FAILED, INTERRUPTED)
    status = cause.status if follows else rank_0.status
    return replace(cause, status=status, ended_at=rank_0.ended_at)


def _with_exit(verdict: Verdict, rank_0: RankState, process_exit: ProcessExit) -> Verdict:
    after = " after training had ended" if rank_0.ended else ""
    if verdict.status in (FAILED, INTERRUPTED):
        return verdict
    if verdict.status == STOPPED:
        exit_text = process_exit.signal_name or (
            f"exit code {process_exit.code}" if process_exit.code else None
        )
        if exit_text is None or process_exit.exited_at < (rank_0.ended_at or 0.0):
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
    if verdict.status == RUNNING and not rank_0.has_pending_events:
        if rank_0.began:
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
