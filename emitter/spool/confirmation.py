"""Waits until the bus has confirmed what this process wrote into a spool."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.emitter.spool.status_page import ACKED_SEQ, StatusPage

_FIRST_DELAY, _LONGEST_DELAY = 0.001, 0.02
_ENSURE_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Unconfirmed:
    """Events before ``end`` of one stream that the bus has yet to confirm.

    ``is_reported`` is False where another process of the machine names the spool to the user.
    """

    page: StatusPage
    end: int
    spool: Path
    ensure_shipper: Callable[[], None]
    is_reported: bool = True

    @property
    def is_confirmed(self) -> bool:
        """Whether the bus has confirmed all of them by now."""
        self.page.sync()
        acked: int = self.page.fields[ACKED_SEQ]
        return acked >= self.end


def wait_confirmed(pending: Sequence[Unconfirmed], deadline: float) -> bool:
    """Wait until ``deadline`` (monotonic seconds); whether everything is confirmed by then.

    Starts a shipper again about once a second if there is none.
    """
    delay, ensured_at = _FIRST_DELAY, time.monotonic()
    while not all(one.is_confirmed for one in pending):
        now = time.monotonic()
        if now >= deadline:
            return False
        if now - ensured_at >= _ENSURE_SECONDS:
            ensured_at = now
            for one in pending:
                one.ensure_shipper()
        time.sleep(min(delay, deadline - now))
        delay = min(delay * 2, _LONGEST_DELAY)
    return True
