"""Whether a run without an end is still alive: by its last sign of life and its progress.

The answer changes with time alone, so the reader computes it. The recorder stores only the time
until which the newest progress counts (``recording.progress``).
"""

from __future__ import annotations

from lineside.store.status.verdict import RUNNING

DISCONNECTED, STALLED = "disconnected", "stalled"
DISCONNECT_SECONDS = 15.0
"""A running run without a sign of life for this long is shown as disconnected."""
PAUSED = "paused"
"""The phase of a training that waits for ``lineside resume``."""


def status_now(status: str, heard_at: float, stalls_at: float | None, now: float) -> str:
    """The status as of ``now`` of a run whose stored status is ``status``."""
    if status == RUNNING and heard_at < now - DISCONNECT_SECONDS:
        return DISCONNECTED
    if status == RUNNING and stalls_at is not None and stalls_at < now:
        return STALLED
    return status
