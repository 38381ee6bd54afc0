"""Whether a run that has not ended goes on: by what was heard of it, and by whether it moves.

Time alone changes the answer, so it is given when somebody asks: the recorder writes down until
when the newest sign of progress holds good.
"""

from __future__ import annotations

from lineside.store.recording.run_state import AttemptState, StreamState
from lineside.store.status.verdict import DETECTION_SECONDS, RANK_0, RUNNING

DISCONNECTED, STALLED = "disconnected", "stalled"
DISCONNECT_SECONDS = 15.0
"""A running run not heard of for this long is shown as disconnected."""
STALL_STEPS, MIN_STALL_SECONDS, MAX_STALL_SECONDS = 10, 30.0, 600.0
"""A training that calls no hook is stalled after the time of so many of its steps: at least
``MIN_STALL_SECONDS`` seconds, and ``MAX_STALL_SECONDS`` where it does something else, or is in its
first two steps."""
PAUSED = "paused"
_STEPPING_PHASES = frozenset({"training", "waiting", None})
_IDLE_PHASES = frozenset({PAUSED, "finished"})
_SMOOTHING = 0.2  # weight of the newest step in the mean


def status_now(status: str, heard_at: float, stalls_at: float | None, now: float) -> str:
    """The status as of ``now``, where the verdict on what was said is ``status``."""
    if status == RUNNING and heard_at < now - DISCONNECT_SECONDS:
        return DISCONNECTED
    if status == RUNNING and stalls_at is not None and stalls_at < now:
        return STALLED
    return status


def update_step_time(stream: StreamState, seconds: float) -> None:
    """A step took so long, with the wait before it."""
    before = stream.step_seconds
    if seconds < 0:
        pass  # a clock was set back
    elif before is None:
        stream.step_seconds = 0.0  # the first one compiles, and is no measure for the others
    elif not before:
        stream.step_seconds = seconds
    else:
        # An evaluation or a pause before this step says little of the next one.
        stream.step_seconds = before + _SMOOTHING * (min(seconds, STALL_STEPS * before) - before)


def mark_progress(attempt: AttemptState, rank_0: StreamState, at: float) -> None:
    """The newest hook of the attempt was called ``at``, in seconds since the epoch."""
    stall_timeout = _stall_timeout(attempt, rank_0)
    attempt.progress_at = at
    attempt.stalls_at = None if stall_timeout is None else at + stall_timeout


def mark_alive(attempt: AttemptState, stream: StreamState, at: float) -> None:
    """The process of a rank lived ``at``, in seconds since the epoch: who had said well before that
    it is gone was wrong. A little later proves nothing, for a heartbeat is stamped after the look.
    """
    rank = stream.rank
    if rank.lost and at > (rank.ended_at or 0.0) + DETECTION_SECONDS:
        rank.lost = False
        if rank.how is None and not rank.ended:
            rank.ended_at = None
    # A command may end before what it started.
    exited_at = attempt.exited_at if stream.producer == RANK_0 else None
    if exited_at is not None and at > exited_at + DETECTION_SECONDS:
        attempt.exited_at = None


def _stall_timeout(attempt: AttemptState, rank_0: StreamState) -> float | None:
    """Seconds that may pass until the next hook; None if nobody can say."""
    if not rank_0.rank.began or rank_0.phase in _IDLE_PHASES:
        return None
    steps = STALL_STEPS * (rank_0.step_seconds or 0.0)
    is_last = attempt.max_steps is not None and (attempt.step or 0) >= attempt.max_steps
    is_done = is_last or rank_0.is_stopping  # what comes now may be long: loading the best model
    is_stepping = rank_0.phase in _STEPPING_PHASES and steps > 0 and not is_done
    return max(steps, MIN_STALL_SECONDS if is_stepping else MAX_STALL_SECONDS)
