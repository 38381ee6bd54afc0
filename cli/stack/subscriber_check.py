"""Imports the subscribers of a configuration before anything starts, each in a process."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable

from lineside.bus.errors import UsageError
from lineside.bus.module_process import WORKING_FOLDER, module_environment
from lineside.cli.stack.supervisor import Program

CHECK_SECONDS = 30.0
"""An import that takes longer is not waited for; its process then reports a fault."""
_PREFIX = "lineside: "


def check_subscribers(programs: Iterable[Program]) -> None:
    """Check that the classes of the subscribers can be imported and take their options.

    Raises:
        UsageError: one cannot, or does not.
    """
    checks = [_start(program) for program in programs if not program.is_required]
    until = time.monotonic() + CHECK_SECONDS
    faults = [fault for check in checks if (fault := _fault(check, until))]
    if faults:
        raise UsageError("\n".join(faults))


def _start(program: Program) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program.argv, "--check"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=module_environment({**os.environ, **program.env}),
        cwd=WORKING_FOLDER,
        start_new_session=True,
    )


def _fault(check: subprocess.Popen[str], until: float) -> str:
    """The sentence with which a check ended; empty if it found no fault."""
    try:
        _, output = check.communicate(timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        check.kill()
        check.communicate()
        return ""
    _, is_ours, sentence = output.rpartition(_PREFIX)
    return sentence.strip() if is_ours and check.returncode == UsageError.exit_code else ""
