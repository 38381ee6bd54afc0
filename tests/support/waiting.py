"""Wait for other processes and threads, with a deadline that a busy machine meets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE = 100.0
"""Seconds that a wait may take on a machine with ten processes for each core."""

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None], what: str = "the condition holds", seconds: float = DEADLINE
) -> T:
    """Poll ``condition`` until it returns a true value; that value.

    Raises:
        TimeoutError: it returned none within ``seconds``; the message contains ``what``.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return answer
