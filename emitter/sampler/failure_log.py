"""Lets one source of metrics fail without the others, and without filling the log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger("lineside")

REPEAT_SECONDS = 3600.0
"""How often a failure that stays is logged: the log is on the disk of the spool."""


class FailureLog:
    """Catches exceptions, and logs each kind of them now and then."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    @contextlib.contextmanager
    def catch(self, what: str) -> Iterator[None]:
        """End the block at an exception, and go on; ``what`` is what cannot be had."""
        try:
            yield
        except Exception as error:
            now = time.monotonic()
            kind = f"{what}: {type(error).__name__}"
            if now >= self._logged_at.get(kind, float("-inf")) + REPEAT_SECONDS:
                self._logged_at[kind] = now
                log.warning("sampler: %s", what, exc_info=True)
