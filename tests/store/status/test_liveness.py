"""Statuses that depend on the current time."""

from __future__ import annotations

import pytest

from lineside.store.status.liveness import status_now


@pytest.mark.parametrize(
    ("status", "heard_at", "stalls_at", "shown"),
    [
        ("running", 99.0, None, "running"),
        ("running", 99.0, 101.0, "running"),
        ("running", 99.0, 99.5, "stalled"),
        ("running", 84.0, 99.5, "disconnected"),  # a stall cannot be seen any more
        ("failed", 84.0, 99.5, "failed"),
    ],
)
def test_only_a_running_run_changes_its_status_with_time(
    status: str, heard_at: float, stalls_at: float | None, shown: str
) -> None:
    assert status_now(status, heard_at, stalls_at, 100.0) == shown
