"""Keeps signs of life and of progress in the state of attempts and streams."""

from __future__ import annotations

from lineside.bus.protocol.events import RANK_0
from lineside.store.recording.run_state import AttemptState, StreamState
from lineside.store.status.liveness import PAUSED
from lineside.store.status.verdict import DETECTION_SECONDS

STALL_STEPS, MIN_STALL_SECONDS, MAX_STALL_SECONDS = 10, 30.0, 600.0
"""A training that calls no hook is stalled after the time of ``STALL_STEPS`` of its steps, but not
before ``MIN_STALL_SECONDS``. The limit is at least ``MAX_STALL_SECONDS`` outside of steps (such as
in an evaluation) and in the first two steps."""
_STEPPING_PHASES = frozenset({"training", "waiting", None})
_IDLE_PHASES = frozenset({PAUSED, "finished"})
_SMOOTHING = 0.2  # weight of the newest step in the mean


def update_step_time(stream: StreamState, seconds: float) -> None:
    """Add a step of ``seconds``, including the wait before it, to the mean step time."""
    before = stream.step_seconds
    if seconds < 0:
        pass  # a clock was set back
    elif before is None:
        stream.step_seconds = 0.0  # the first step compiles and is no measure for the others
    elif not before:
        stream.step_seconds = seconds
    else:
        # An evaluation or a pause before this step must not count as step time.
        stream.step_seconds = before + _SMOOTHING * (min(seconds, STALL_STEPS * before) - before)


def mark_progress(attempt: AttemptState, rank_0: StreamState, at: float) -> None:
    """Record that the attempt's newest hook was called ``at`` (seconds since the epoch)."""
    stall_timeout = _stall_timeout(attempt, rank_0)
    attempt.progress_at = at
    attempt.stalls_at = None if stall_timeout is None else at + stall_timeout


def mark_alive(attempt: AttemptState, stream: StreamState, at: float) -> None:
    """Record that a rank's process was alive ``at`` (seconds since the epoch).

    This revokes a ``process_lost`` or ``process_exit`` that is more than ``DETECTION_SECONDS``
    older. A smaller difference proves nothing: the shipper stamps a heartbeat after it has looked
    at the process.
    """
    rank = stream.rank
    if rank.lost and at > (rank.ended_at or 0.0) + DETECTION_SECONDS:
        rank.lost = False
        if rank.how is None and not rank.ended:
            rank.ended_at = None
    # The command that `lineside run` started may end before the training that it started.
    exited_at = attempt.exited_at if stream.producer == RANK_0 else None
    if exited_at is not None and at > exited_at + DETECTION_SECONDS:
        attempt.exited_at = None


def _stall_timeout(attempt: AttemptState, rank_0: StreamState) -> float | None:
    """Seconds that may pass until the next hook; None if there is no limit."""
    if not rank_0.rank.began or rank_0.phase in _IDLE_PHASES:
        return None
    steps = STALL_STEPS * (rank_0.step_seconds or 0.0)
    is_last = attempt.max_steps is not None and (attempt.step or 0) >= attempt.max_steps
    is_done = is_last or rank_0.is_stopping  # loading the best model may take long
    is_stepping = rank_0.phase in _STEPPING_PHASES and steps > 0 and not is_done
    return max(steps, MIN_STALL_SECONDS if is_stepping else MAX_STALL_SECONDS)
