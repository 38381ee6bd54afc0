"""A process that imports what a configuration names, to find its faults before it is needed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

from lineside.bus.module_process import WORKING_FOLDER, module_environment


class CheckProcess:
    """Runs ``argv``, which imports what it checks, in a process group that ends with the context.

    ``env`` is added to this process's environment. The output is that of stderr, and with
    ``keeps_stdout`` of stdout too.

    Raises:
        OSError: ``argv`` cannot be run.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        given: IO[bytes] | int = subprocess.DEVNULL,
        *,
        keeps_stdout: bool = False,
    ) -> None:
        # A file and no pipe: what the import has started may outlive it and hold the pipe.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the exit
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=self._output if keeps_stdout else subprocess.DEVNULL,
                stderr=self._output,
                env=module_environment({**os.environ, **env}),
                cwd=WORKING_FOLDER,
                start_new_session=True,
            )
        except OSError:
            self._output.close()
            raise

    def __enter__(self) -> CheckProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def result(self, until: float) -> tuple[int, str] | None:
        """Return code and output; None if it still runs at the monotonic time ``until``."""
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self._output.seek(0)
        return code, self._output.read().decode(errors="replace")
