"""Keeps child processes running: starts, watches and restarts them with back-off."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.log_file import LogFile
from lineside.bus.module_process import WORKING_FOLDER, module_environment
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.wording import describe_exit


@dataclass(frozen=True)
class Program:
    """A module to run with ``argv``; ``env`` is added to this process's own environment.

    A stack whose program ``is_required`` ends before it is ready cannot work. A program that
    ``has_check`` reports faults of its configuration with the option ``--check``.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    is_required: bool = True
    has_check: bool = False


@dataclass(frozen=True)
class Backoff:
    """Seconds before a restart: ``first``, then ``factor`` times as long, at most ``longest``.

    A process that ran for ``healthy`` seconds starts at ``first`` again.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    healthy: float = 30.0


class Child:
    """One program: its process, its log and its number of restarts."""

    def __init__(self, program: Program, log: LogFile, backoff: Backoff) -> None:
        self.program = program
        self.log = log
        self.restarts = 0
        self.last_exit: int | None = None
        self._backoff = backoff
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._log_start = 0
        self._delay = backoff.first
        self._due: float | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; None between its end and the next start."""
        return self._process.pid if self._process else None

    def exit_code(self) -> int | None:
        """The return code as ``subprocess`` defines it; None while the process runs."""
        return self._process.poll() if self._process else self.last_exit

    def start(self, now: float) -> None:
        """Start the process with its output appended to the log.

        It leads its own session: a Ctrl-C at the terminal reaches only the supervisor, which
        decides the order of shutdown.
        """
        self._log_start = self.log.size()
        with self.log.open_append() as out:
            self._process = subprocess.Popen(
                self.program.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=module_environment(
                    {**os.environ, **self.program.env, SUPERVISOR_PID: str(os.getpid())}
                ),
                cwd=WORKING_FOLDER,
                start_new_session=True,
            )
        self._started, self._due = now, None

    def last_output(self) -> str:
        """The last line of this process, without its predecessors'."""
        lines = self.log.last_lines(1, start=self._log_start)
        return lines[0].removeprefix("lineside: ") if lines else "it logged nothing"

    def run_once(self, now: float) -> str | None:
        """Detect an exit or make a restart that is due; a sentence on it, or None."""
        name = self.program.name
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return None
            self._process, self.last_exit = None, code
            if now - self._started >= self._backoff.healthy:
                self._delay = self._backoff.first
            delay = self._schedule_restart(now)
            return f"{name} ended ({describe_exit(code)}), next start in {delay:g} s"
        if self._due is None or now < self._due:
            return None
        try:
            self.start(now)
        except OSError as error:  # a full disk or no more processes: try again
            return f"{name} cannot be started ({error}), again in {self._schedule_restart(now):g} s"
        self.restarts += 1
        return f"{name} started again, {times_text(self.restarts)} so far"

    def _schedule_restart(self, now: float) -> float:
        wait = self._delay
        self._due = now + wait
        self._delay = min(wait * self._backoff.factor, self._backoff.longest)
        return wait

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Whether the process has ended within ``timeout`` seconds."""
        if self._process is None:
            return True
        try:
            self.last_exit = self._process.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            return False
        self._process = None
        return True


class Supervisor:
    """Runs programs until ``stop``. Each writes to ``<logs>/<name>.log``.

    ``report`` receives a sentence at each exit and restart.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        logs: Path,
        *,
        report: Callable[[str], None],
        backoff: Backoff | None = None,
        grace: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        backoff = backoff or Backoff()
        self.children = [Child(p, LogFile(logs / f"{p.name}.log"), backoff) for p in programs]
        self._report = report
        self._grace = grace
        self._clock = clock

    def start(self) -> None:
        """Start every child once."""
        for child in self.children:
            child.start(self._clock())

    def run_once(self) -> None:
        """Check every child and trim the logs. Returns at once."""
        now = self._clock()
        for child in self.children:
            if message := child.run_once(now):
                self._report(message)
            child.log.trim()

    def stop(self) -> None:
        """End the children in reverse order; kill those still running after ``grace`` seconds."""
        for child in reversed(self.children):
            child.signal(signal.SIGTERM)
            child.signal(signal.SIGCONT)  # a stopped process would not receive it
        deadline = self._clock() + self._grace
        for child in reversed(self.children):
            if not child.wait(deadline - self._clock()):
                self._report(f"{child.program.name} did not end within {self._grace:g} s: killed")
                self.kill(child)

    def kill(self, child: Child) -> None:
        """Kill ``child`` and wait for it."""
        child.signal(signal.SIGKILL)
        child.wait(self._grace)


def times_text(count: int) -> str:
    """``once``, ``twice``, ``3 times``."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
