"""Starts processes beside a training process, and starts them again when they have ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from functools import cache
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
_START_TIMEOUT = 30.0  # seconds a starting process may need until it holds the lock
_LOG_BYTES = 1 << 20


class SidecarStarter:
    """Keeps one process of ``module`` running beside the spool root ``spool``.

    That process locks the file ``lock_name`` in the spool while it runs. Training hooks call
    ``ensure`` about once a second: it never raises and costs some microseconds while the lock is
    held. After a start that did not help it waits 1 s, then twice as long each time, up to 60 s;
    after ``max_failures`` such starts it stops trying. ``failure`` is the error of the last start,
    None if it succeeded.
    """

    def __init__(
        self,
        spool: Path,
        broker: str,
        *,
        module: str,
        lock_name: str,
        log_name: str,
        max_failures: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool = spool
        self.broker = broker
        self.failure: str | None = None
        self._module = module
        self._lock_path, self._log_path = spool / lock_name, spool / log_name
        self._max_failures = max_failures
        self._clock = clock
        self._pid: int | None = None
        self._started = -math.inf
        self._backoff = 0.0
        self._failures = 0  # starts since the lock was last seen held

    def ensure(self) -> None:
        """Start the process if none holds the lock."""
        try:
            self._reap()
            if lock_holder(self._lock_path) is not None:
                self._backoff, self._failures = 0.0, 0
                return
            now = self._clock()
            wait = self._backoff if self._pid is None else max(self._backoff, _START_TIMEOUT)
            if now < self._started + wait or self._failures >= self._max_failures:
                return
            self._started = now
            self._failures += 1
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
        with open_private(self._log_path, os.O_WRONLY | os.O_APPEND) as log:
            child = subprocess.Popen(
                module_command(self._module, DETACH),
                # Nothing of the trainer's stays open: a process that reads its output to the end
                # must not wait for this one, and a busy working directory cannot be unmounted.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=WORKING_FOLDER,
                env=shipper_environment(self.spool, self.broker),
                start_new_session=True,
            )
        # The child forks and ends once the new process has the lock: a script that waits for all
        # its children must not wait for a process that waits for the script. The child is reaped
        # by its id, and Popen would warn that it still runs.
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


class ShipperStarter(SidecarStarter):
    """Keeps a shipper running that sends the spool root ``spool`` to ``broker``."""

    def __init__(
        self, spool: Path, broker: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(
            spool,
            broker,
            module="lineside.emitter.shipper",
            lock_name=LOCK_NAME,
            log_name=LOG_NAME,
            clock=clock,
        )


@cache
def shipper_starter(spool: Path, broker: str) -> ShipperStarter:
    """One for each spool and broker, for all runs: it remembers the shipper that it started."""
    return ShipperStarter(spool, broker)


class ShipperStatus(NamedTuple):
    """What the shipper of a spool reports about itself, in the file that it locks.

    ``pid`` is 0 or less where it runs in another container or machine. ``problem`` is why something
    is not confirmed, empty while its ``broker`` confirms everything. It runs as ``user``, an id.
    """

    pid: int
    broker: str
    problem: str
    user: int | None = None

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
            user = data.get("user")
            return cls(pid, str(data["broker"]), str(data["problem"]), user)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls(pid, "", "")  # it is starting, or writes it right now

    def write(self, lock: int) -> None:
        """Store it in the locked file ``lock``, a descriptor.

        Raises:
            OSError: it cannot be stored.
        """
        fields = {"broker": self.broker, "problem": self.problem, "user": self.user}
        data = json.dumps(fields).encode()
        os.pwrite(lock, data, 0)
        os.ftruncate(lock, len(data))


def shipper_pid(spool: Path) -> int | None:
    """The process id of the shipper of ``spool``; None if none runs.

    Raises:
        OSError: the spool cannot be read.
    """
    return lock_holder(spool / LOCK_NAME)


def lock_holder(path: Path) -> int | None:
    """The process id that holds the lock at ``path``; None if it is free or there is no file.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return liveness_lock.holder_pid(path)
    except FileNotFoundError:
        return None


def rotate_log(path: Path) -> None:
    """Start a new log when the file behind stderr has become long; the last one is kept."""
    with contextlib.suppress(OSError):
        stderr = os.fstat(2)
        if stderr.st_size > _LOG_BYTES and os.path.samestat(stderr, path.stat()):
            path.replace(path.with_name(f"{path.name}.1"))
            with open_private(path, os.O_WRONLY | os.O_APPEND) as fd:
                os.dup2(fd, 2)


def shipper_environment(spool: Path, broker: str) -> dict[str, str]:
    """This process's environment without the changes of ``lineside run``, for a process beside it.

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
