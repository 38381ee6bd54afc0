"""Notices a hook that hangs, from a thread beside the one that it hangs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

HANG_SECONDS = 60.0
"""How long a hook may take until it is reported; the next report is at ten times, and so on."""


class Hooks(Protocol):
    """What calls hooks: ``hook`` is the one being called, since the monotonic ``hook_since``."""

    hook: str
    hook_since: float


class HookWatch:
    """``report`` receives ``hanging`` or ``recovered``, the hook, and what is wrong."""

    def __init__(self, hooks: Hooks, report: Callable[[str, str, Exception | None], None]) -> None:
        self._hooks = hooks
        self._report = report
        self._hanging = ("", 0.0)  # the call that was reported
        self._report_after = HANG_SECONDS

    def check(self, now: float) -> None:
        """Report a hook that hangs for longer than before, or no longer."""
        hook, since = self._hooks.hook, self._hooks.hook_since
        if self._hanging[0] and (hook, since) != self._hanging:
            self._report("recovered", self._hanging[0], None)
            self._hanging, self._report_after = ("", 0.0), HANG_SECONDS
        if hook and now - since >= self._report_after:
            self._hanging = (hook, since)
            self._report_after *= 10
            self._report("hanging", hook, TimeoutError(f"hangs for {now - since:.0f} s"))
