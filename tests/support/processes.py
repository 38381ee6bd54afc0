"""Python processes with their output in a file: started, killed, frozen, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.bus.service import SUPERVISOR_PID
from tests.support.forked import ForkedCommand, ForkedScript
from tests.support.waiting import DEADLINE

if TYPE_CHECKING:
    from typing_extensions import Self


_BOOT_TIME_SECONDS = 1.0  # to which the kernel rounds it


class Child:
    """A Python process whose output goes to ``log``; a context starts it and kills it at the end.

    A ``lineside`` command, ``-m lineside.cli ...``, is forked; with ``fork`` a script is, too.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        fork: bool = False,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self._cwd = cwd
        self.code: int | None = None
        self._popen: type[subprocess.Popen[bytes]] = subprocess.Popen
        self._command = [sys.executable, *command]
        if list(command[:2]) == ["-m", "lineside.cli"]:
            self._popen = ForkedCommand
        elif fork:
            self._popen, self._command = ForkedScript, list(command)
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when it is not running."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process, also after it has ended."""
        with self.log.open("ab") as output:
            self._process = self._popen(
                self._command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait until the process ends by itself; its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end within ``seconds``.
        """
        if self._process is not None:
            self.code = self._process.wait(seconds)
            self._process = None
        if self.code is None:
            raise RuntimeError(f"{self._command} was not started")
        return self.code

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def stop(self) -> int:
        """Send SIGTERM, and SIGKILL if the process does not end; its exit code.

        Raises:
            RuntimeError: it ended by itself; the message holds its exit code and its log.
        """
        if self._process is not None:
            self._send_signal(signal.SIGTERM)
            try:
                self.wait(DEADLINE / 2)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._send_signal(signal.SIGCONT)

    def _send_signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError(f"{self._command} does not run")
        if self._process.poll() is not None:
            code = self.wait()
            tail = self.log_text()[-4000:]
            raise RuntimeError(f"{self._command} ended by itself with exit code {code}: {tail}")
        self._process.send_signal(number)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        print(f"{self._command} ended with exit code {self.code}")  # shown if the test failed
        print(self.log_text()[-4000:])


def kill_writer(file: Path) -> None:
    """SIGKILL the process that wrote its id into ``file``, if it lives.

    A process that began after that has only the same id.
    """
    pid = int(file.read_text())
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        descriptor = os.pidfd_open(pid)
        try:
            if start_time(pid) <= file.stat().st_mtime + _BOOT_TIME_SECONDS:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def start_time(pid: int) -> float:
    """When a process began, in seconds since the epoch, give or take ``_BOOT_TIME_SECONDS``."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    [booted] = [
        line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    ]
    return int(booted.split()[1]) + int(ticks) / os.sysconf("SC_CLK_TCK")


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's variables, of Lineside's only LINESIDE_HOME and ``more``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LINESIDE_")}
    return {**env, "LINESIDE_HOME": str(home), **more}


def supervised(home: Path, **more: str) -> dict[str, str]:
    """The variables of a service that ends with this process; forked, with the session of tests."""
    return environment(home, **{SUPERVISOR_PID: str(os.getpid())}, **more)
