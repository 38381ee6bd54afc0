"""Starts the shipper beside a training process, and starts it again when it has ended."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lineside.bus.module_process import WORKING_FOLDER, module_command, module_environment
from lineside.bus.settings import make_private_folder
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.protected_file import open_private
from lineside.emitter.spool.script_errors import is_script_error

LOCK_NAME = "shipper.lock"
LOG_NAME = "shipper.log"
DETACH = "--detach"
INJECT_FOLDER = Path(__file__).parents[1] / "launch" / "inject"
_FIRST_BACKOFF, _LONGEST_BACKOFF = 1.0, 60.0
_START_TIMEOUT = 30.0  # seconds a starting shipper may need until it holds the lock


class ShipperStarter:
    """Keeps a shipper running that sends the spool root ``spool`` to ``broker``.

    Training hooks call ``ensure`` about once a second: it never raises and costs some microseconds
    while a shipper holds the lock. After a start that did not help it waits 1 s, then twice as long
    each time, up to 60 s. ``failure`` is the error of the last start, None if it succeeded.
    """

    def __init__(
        self, spool: Path, broker: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.spool = spool
        self.broker = broker
        self.failure: str | None = None
        self._clock = clock
        self._pid: int | None = None
        self._started = -math.inf
        self._backoff = 0.0

    def ensure(self) -> None:
        """Start a shipper if none holds the spool's lock."""
        try:
            self._reap()
            if shipper_pid(self.spool) is not None:
                self._backoff = 0.0
                return
            now = self._clock()
            wait = self._backoff if self._pid is None else max(self._backoff, _START_TIMEOUT)
            if now < self._started + wait:
                return
            self._started = now
            self._backoff = (
                min(self._backoff * 2, _LONGEST_BACKOFF) if self._backoff else _FIRST_BACKOFF
            )
            self._start()
            self.failure = None
        except Exception as error:
            if is_script_error(error):
                raise
            self.failure = f"{type(error).__name__}: {error}"

    def _start(self) -> None:
        make_private_folder(self.spool)
        with open_private(self.spool / LOG_NAME, os.O_WRONLY | os.O_APPEND) as log:
            child = subprocess.Popen(
                module_command("lineside.emitter.shipper", DETACH),
                # Nothing of the trainer's stays open: a process that reads its output to the end
                # must not wait for the shipper, and a busy working directory cannot be unmounted.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=WORKING_FOLDER,
                env=shipper_environment(self.spool, self.broker),
                start_new_session=True,
            )
        # The child forks and ends once the shipper has the lock: a script that waits for all its
        # children must not wait for the shipper, which waits for the script. The child is reaped by
        # its id, and Popen would warn that it still runs.
        self._pid = child.pid
        child.returncode = 0

    def _reap(self) -> None:
        if self._pid is None:
            return
        try:
            ended, _ = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # the training script waits for every child
            ended = self._pid
        if ended:
            self._pid = None


class ShipperStatus(NamedTuple):
    """What the shipper of a spool reports about itself, in the file that it locks.

    ``pid`` is 0 or less where it runs on another machine. ``problem`` is why nothing is confirmed,
    empty while its ``broker`` confirms what it sends.
    """

    pid: int
    broker: str
    problem: str

    @classmethod
    def read(cls, spool: Path) -> ShipperStatus | None:
        """The status of the shipper of ``spool``; None if none runs.

        Raises:
            OSError: the spool cannot be read.
        """
        pid = shipper_pid(spool)
        if pid is None:
            return None
        try:
            data = json.loads((spool / LOCK_NAME).read_bytes())
            return cls(pid, str(data["broker"]), str(data["problem"]))
        except (OSError, ValueError, TypeError, KeyError):
            return cls(pid, "", "")  # it is starting, or writes it right now

    def write(self, lock: int) -> None:
        """Store it in the locked file ``lock``, a descriptor.

        Raises:
            OSError: it cannot be stored.
        """
        data = json.dumps({"broker": self.broker, "problem": self.problem}).encode()
        os.pwrite(lock, data, 0)
        os.ftruncate(lock, len(data))


def shipper_pid(spool: Path) -> int | None:
    """The process id of the shipper of ``spool``; None if none runs.

    Raises:
        OSError: the spool cannot be read.
    """
    try:
        return liveness_lock.holder_pid(spool / LOCK_NAME)
    except FileNotFoundError:
        return None


def shipper_environment(spool: Path, broker: str) -> dict[str, str]:
    """This process's environment without the changes of ``lineside run``, for a shipper.

    It undoes what ``launch.command`` adds for a command's children.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LINESIDE_") or name == "LINESIDE_HOME"
    }
    env["LINESIDE_SPOOL"] = str(spool)
    env["LINESIDE_BROKER"] = broker
    entries = env.get("PYTHONPATH", "").split(os.pathsep)
    kept = (entry for entry in entries if Path(entry).absolute() != INJECT_FOLDER)
    return module_environment({**env, "PYTHONPATH": os.pathsep.join(kept)})
