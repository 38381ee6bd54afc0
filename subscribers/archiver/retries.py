"""How long to wait before a copy that failed is tried again."""

from __future__ import annotations

from lineside.subscribers.backoff import Backoff

SOURCE_RETRY = (2.0, 600.0)
"""The first and the longest delay after a fault of the checkpoint or its disk."""
UNAVAILABLE_RETRY = (5.0, 600.0)
"""After a fault of the archive."""
DENIED_RETRY = (60.0, 1800.0)
"""After the archive has refused: a person has to mend that."""


def retry_delay(tries: int, delays: tuple[float, float]) -> float:
    """Seconds until the next try after ``tries`` failed ones, with jitter."""
    backoff = Backoff(*delays)
    backoff.tries = tries - 1
    return backoff.fail()
