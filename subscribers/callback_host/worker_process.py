"""The process of one callback and run as its manager starts, watches and ends it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from lineside.bus.log_file import LogFile
from lineside.bus.module_process import WORKING_FOLDER, module_environment
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.settings import make_private_folder
from lineside.subscribers.callback_host.worker_spec import WorkerSpec

OUTPUT = "output.log"
"""The file in a callback's folder with what its processes write."""
_MODULE = "lineside.subscribers.callback_host"
_LINES = 20
_ERROR = " ERROR "
_KILL_SECONDS = 5.0  # until the kernel has ended a killed process


class WorkerProcess:
    """Runs ``spec`` with the interpreter ``python``, by default this one.

    ``is_fed``: the events of a recorded run follow, by ``feed``, and ``end_input`` behind the last.

    Raises:
        SettingsError: the callback's folder cannot be made.
        OSError: the process cannot be started.
    """

    def __init__(self, spec: WorkerSpec, python: str | None, *, is_fed: bool = False) -> None:
        self.spec = spec
        self.python = python
        self.started_at = time.monotonic()
        self.is_ending = False
        """Whether it was asked to end."""
        self.log = LogFile(make_private_folder(Path(spec.folder)) / OUTPUT)
        self._log_start = self.log.size()
        with self.log.open_append() as out:
            self._process = subprocess.Popen(
                [python or sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=module_environment({**os.environ, SUPERVISOR_PID: str(os.getpid())}),
                cwd=WORKING_FOLDER,
                start_new_session=True,  # with the processes that trackers start
            )
        if self._process.stdin is None:
            raise RuntimeError("Popen was asked for a pipe")
        self._input = self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.feed(spec.to_line())
        if is_fed:
            # No more on the way than it works on soon: what was handed over is nearly done.
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
        else:
            self.end_input()

    def can_take(self, timeout: float) -> bool:
        """Whether it has read so much that a short line can be handed to it, or has ended."""
        return bool(select.select([], [self._input], [], timeout)[1])

    def feed(self, line: bytes) -> None:
        """Hand it a line; waits while it has not read earlier ones.

        Raises:
            BrokenPipeError: it has ended.
        """
        self._input.write(line)
        self._input.flush()

    def end_input(self) -> None:
        """Hand it no more lines."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code as ``subprocess`` defines it; None while it runs."""
        return self._process.poll()

    def last_output(self) -> str:
        """The last error that it logged, or else the last line that it wrote."""
        lines = self.log.last_lines(_LINES, start=self._log_start)
        errors = [line.partition(_ERROR)[2] for line in lines if _ERROR in line]
        return (errors or lines or ["it wrote nothing"])[-1]

    def end(self) -> None:
        """Ask it to end; its position is kept."""
        self.is_ending = True
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)  # a stopped process would not receive it

    def wait(self, deadline: float) -> bool:
        """Whether it ended before the monotonic time ``deadline``."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill it and the processes that its tracker started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait(time.monotonic() + _KILL_SECONDS)
