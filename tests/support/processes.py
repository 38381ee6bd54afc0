"""Processes that a test starts and ends by their ids, and whatever those started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lineside.bus.service import SUPERVISOR_PID
from tests.support.forked import ForkedScript
from tests.support.waiting import DEADLINE


class Child:
    """A Python process with its output in ``log``; it can be killed, frozen and started again.

    ``fork``: fork the script from the server that has torch loaded.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, *, fork: bool = False
    ) -> None:
        self.log = log
        self.code: int | None = None
        self._popen = ForkedScript if fork else subprocess.Popen
        self._command = list(command) if fork else [sys.executable, *command]
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when it is not running."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it; again, if it was started before."""
        with self.log.open("ab") as output:
            self._process = self._popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait(self, seconds: float = DEADLINE) -> int:
        """Its exit code, once it ended by itself.

        Raises:
            subprocess.TimeoutExpired: it did not within ``seconds``.
        """
        if self._process is not None:
            self.code = self._process.wait(seconds)
            self._process = None
        if self.code is None:
            raise RuntimeError("it was never started")
        return self.code

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does nothing."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def log_text(self) -> str:
        """What it wrote to its output."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment with nothing of Lineside's but ``home`` and ``more``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LINESIDE_")}
    return {**env, "LINESIDE_HOME": str(home), **more}


def supervised(home: Path, **more: str) -> dict[str, str]:
    """The same for a service, which then ends with this process."""
    return environment(home, **{SUPERVISOR_PID: str(os.getpid())}, **more)
