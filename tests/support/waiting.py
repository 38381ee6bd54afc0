"""Wait for what other processes and threads do, with a deadline that a busy machine meets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE = 60.0
"""Seconds that a wait may take; two cores may be shared with much else."""

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None], what: str = "the condition holds", seconds: float = DEADLINE
) -> T:
    """Poll ``condition`` until its answer is true, and return the answer.

    Raises:
        TimeoutError: it was not true within ``seconds``; the message says ``what``.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return answer
