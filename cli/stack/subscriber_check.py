"""Imports the subscribers of a configuration before anything starts, each in a process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable

from lineside.bus.errors import UsageError
from lineside.bus.module_process import WORKING_FOLDER, module_environment
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
        checks = [stack.enter_context(_Check(one)) for one in programs if one.has_check]
        faults = [fault for check in checks if (fault := check.fault(until))]
    if faults:
        raise UsageError("\n".join(faults))


class _Check:
    """One check in a process group of its own, which ends with the context."""

    def __init__(self, program: Program) -> None:
        # A file and no pipe: what the import has started may outlive it and hold the pipe.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the exit
        self._process = subprocess.Popen(
            [*program.argv, "--check"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            env=module_environment({**os.environ, **program.env}),
            cwd=WORKING_FOLDER,
            start_new_session=True,
        )

    def __enter__(self) -> _Check:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def fault(self, until: float) -> str:
        """The sentence with which the check ended; empty if it found no fault in time."""
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return ""
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        _, is_ours, sentence = output.rpartition(_PREFIX)
        return sentence.strip() if is_ours and code == UsageError.exit_code else ""
