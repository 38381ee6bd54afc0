"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random

_JITTER = 0.25  # either way, so that what failed together does not come back together


class RetryLater(Exception):
    """Raised by a handler, ``flush`` or ``tick``: it did not work now, try again in ``seconds``.

    ``reason`` is what the run's page shows, if it goes on for long.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Backoff:
    """Delays that double from ``first`` seconds to ``longest``, with jitter."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.tries = 0
        """Failed tries since the last success."""

    def fail(self, error: Exception | None = None) -> float:
        """Count a failed try; the seconds until the next, which a ``RetryLater`` sets itself."""
        self.tries += 1
        if isinstance(error, RetryLater):
            return max(0.0, error.seconds)
        delay = min(self._first * 2.0 ** min(self.tries - 1, 30), self._longest)
        return delay * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret

    def succeed(self) -> None:
        """Begin anew."""
        self.tries = 0
