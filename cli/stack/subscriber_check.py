"""Imports the subscribers of a configuration before anything starts, each in a process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from lineside.bus.callbacks.check_process import CheckProcess
from lineside.bus.errors import UsageError
from lineside.cli.stack.supervisor import Program

CHECK_SECONDS = 30.0
"""An import that takes longer is not waited for; its process then reports a fault."""
_PREFIX = "lineside: "


def check_subscribers(programs: Iterable[Program], seconds: float = CHECK_SECONDS) -> None:
    """Check classes and options of the subscribers, and the watchdog's targets of notifications.

    Raises:
        UsageError: one cannot be used.
    """
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        checks = [
            stack.enter_context(CheckProcess([*one.argv, "--check"], one.env))
            for one in programs
            if one.has_check
        ]
        faults = [fault for check in checks if (fault := _fault(check, until))]
    if faults:
        raise UsageError("\n".join(faults))


def _fault(check: CheckProcess, until: float) -> str:
    """The sentence with which the check ended; empty if it found no fault in time."""
    code, output = check.result(until) or (0, "")
    _, is_ours, sentence = output.rpartition(_PREFIX)
    return sentence.strip() if is_ours and code == UsageError.exit_code else ""
