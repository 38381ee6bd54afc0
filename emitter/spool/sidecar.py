"""Starts the shipper beside a training process, and starts it again when it has gone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lineside.bus.settings import private_folder
from lineside.emitter.spool import locks
from lineside.emitter.spool.outside import comes_from_outside

LOCK_NAME = "shipper.lock"
LOG_NAME = "shipper.log"
DETACH = "--detach"
INJECT_FOLDER = Path(__file__).parents[1] / "launch" / "inject"
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_START_TAKES = 30.0  # seconds a starting shipper may need until it holds the lock


class Sidecar:
    """Sees to it that the spool root ``spool`` has a shipper that sends to ``broker``.

    ``ensure`` is meant for a training hook about once a second: it never raises, costs some
    microseconds while a shipper holds the lock, and after a start that did not help waits 1 s,
    then twice as long each time up to 60 s. ``failure`` says why the last start failed, or None.
    """

    def __init__(
        self, spool: Path, broker: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failure: str | None = None
        self._spool = spool
        self._broker = broker
        self._clock = clock
        self._pid: int | None = None
        self._started = -math.inf
        self._wait = 0.0

    def ensure(self) -> None:
        """Start a shipper if none holds the spool's lock."""
        try:
            self._reap()
            if shipper_pid(self._spool) is not None:
                self._wait = 0.0
                return
            now = self._clock()
            wait = self._wait if self._pid is None else max(self._wait, _START_TAKES)
            if now < self._started + wait:
                return
            self._started = now
            self._wait = min(self._wait * 2, _LONGEST_WAIT) if self._wait else _FIRST_WAIT
            self._start()
            self.failure = None
        except Exception as error:
            if comes_from_outside(error):
                raise
            self.failure = f"{type(error).__name__}: {error}"

    def _start(self) -> None:
        private_folder(self._spool)
        log = os.open(
            self._spool / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "lineside.emitter.shipper", DETACH],
                # Nothing of the trainer's is held open: whoever waits for the end of its output
                # must not wait for ours, and a busy working directory cannot be unmounted.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                env=shipper_environment(self._spool, self._broker),
                start_new_session=True,
            )
        finally:
            os.close(log)
        # It forks and ends once the shipper has the lock: a script that waits for all its children
        # must not wait for the shipper, which waits for the script. It is reaped by its id, and
        # Popen would warn that it still runs.
        self._pid = child.pid
        child.returncode = 0

    def _reap(self) -> None:
        if self._pid is None:
            return
        try:
            ended, _ = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # somebody in the training script waits for every child
            ended = self._pid
        if ended:
            self._pid = None


def shipper_pid(spool: Path) -> int | None:
    """The process id of the shipper that looks after ``spool``; None if there is none.

    Raises:
        OSError: the spool cannot be read.
    """
    try:
        return locks.holder(spool / LOCK_NAME)
    except FileNotFoundError:
        return None


def shipper_environment(spool: Path, broker: str) -> dict[str, str]:
    """This process's environment as a shipper needs it: told where, and without the injection."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LINESIDE_") or name == "LINESIDE_HOME"
    }
    env["LINESIDE_SPOOL"] = str(spool)
    env["LINESIDE_BROKER"] = broker
    # Entries are made absolute, because the shipper works in another folder.
    kept = [
        str(Path(entry).absolute())
        for entry in env.pop("PYTHONPATH", "").split(os.pathsep)
        if entry and Path(entry).absolute() != INJECT_FOLDER
    ]
    if kept:
        env["PYTHONPATH"] = os.pathsep.join(kept)
    return env
