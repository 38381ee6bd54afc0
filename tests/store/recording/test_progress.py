"""Stall timeouts: by the phase of training and the time of its steps."""

from __future__ import annotations

import pytest

from lineside.store.recording.progress import (
    MAX_STALL_SECONDS,
    MIN_STALL_SECONDS,
    mark_progress,
    update_step_time,
)
from lineside.store.recording.run_state import AttemptState, StreamState
from lineside.store.status.verdict import RankState


def training(phase: str | None = "training", *steps: float) -> StreamState:
    stream = StreamState(1, "rank0", "a", False, 0.0, phase=phase, rank=RankState(began=True))
    for seconds in (99.0, *steps):
        update_step_time(stream, seconds)
    return stream


def stall_timeout(stream: StreamState, step: int = 5, max_steps: int | None = 10) -> float | None:
    attempt = AttemptState(1, "a", 0.0, 0.0, "running", step=step, max_steps=max_steps)
    mark_progress(attempt, stream, 1000.0)
    assert attempt.progress_at == 1000.0
    return None if attempt.stalls_at is None else attempt.stalls_at - 1000.0


@pytest.mark.parametrize(
    ("stream", "seconds"),
    [
        (training("training", 0.1), MIN_STALL_SECONDS),
        (training("waiting", 0.1), MIN_STALL_SECONDS),
        (training(None, 0.1), MIN_STALL_SECONDS),
        (training("training", 8.0), 80.0),
        (training("training"), MAX_STALL_SECONDS),  # its first step has ended, its second has not
        (training("evaluating", 0.1), MAX_STALL_SECONDS),
        (training("saving", 100.0), 1000.0),
        (training("paused", 0.1), None),
        (training("finished", 0.1), None),
        (StreamState(1, "rank0", "a", False, 0.0), None),  # a loop, or an evaluation alone
    ],
)
def test_the_stall_timeout_depends_on_phase_and_step_time(
    stream: StreamState, seconds: float | None
) -> None:
    assert stall_timeout(stream) == seconds


def test_the_stall_timeout_is_long_after_the_last_step() -> None:
    assert stall_timeout(training("waiting", 0.1), step=10) == MAX_STALL_SECONDS
    assert stall_timeout(training("waiting", 0.1), step=10, max_steps=None) == MIN_STALL_SECONDS
    stopping = training("waiting", 0.1)
    stopping.is_stopping = True
    assert stall_timeout(stopping) == MAX_STALL_SECONDS


def test_the_step_time_is_a_mean_that_one_long_wait_changes_little() -> None:
    assert training("training", 1.0, 2.0).step_seconds == pytest.approx(1.2)
    # An evaluation of an hour before a step of one second.
    assert training("training", 1.0, 3600.0).step_seconds == pytest.approx(2.8)
    assert training("training", 1.0, -5.0).step_seconds == 1.0
    slower = training("training", 1.0, *[60.0] * 40)
    assert slower.step_seconds == pytest.approx(60.0, rel=0.01)
