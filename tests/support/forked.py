"""Python scripts that start with torch and transformers loaded, forked from one server process."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.support.fork_server import ROOT, STATUS_BYTES, STATUS_FLAG

TORCHRUN = Path(__file__).with_name("forked_torchrun.py")
"""A script for ForkedScript that takes torchrun's arguments."""
ADDRESS_VARIABLE = "TESTS_FORK_SERVER"
"""The environment variable that holds the path of the server's socket."""


class ForkedScript(subprocess.Popen[Any]):
    """``python SCRIPT ARGUMENT...``, forked from the server; otherwise a Popen.

    The command names no interpreter; the script can import ``tests``. Of the options of Popen these
    work: stdin, stdout, stderr, text, env, cwd and start_new_session. ``/proc`` shows the command
    line and the environment of the server.
    """

    running: ClassVar[list[ForkedScript]] = []
    """The scripts that this process started and that have not ended."""

    def __init__(self, command: Sequence[str | Path], **options: Any) -> None:
        self.environment: Mapping[str, str] = options.get("env") or os.environ
        super().__init__([str(part) for part in command], **options)

    def _execute_child(self, args: list[str], *given: Any) -> None:
        cwd, pipes, start_new_session = given[4], given[9:15], given[20]
        job = {
            "argv": args,
            "env": dict(self.environment),
            "cwd": str(cwd or Path.cwd()),
            "start_new_session": bool(start_new_session),
        }
        wanted = zip((pipes[0], pipes[3], pipes[5]), (0, 1, 2), strict=True)
        self._status, theirs = socket.socketpair()
        with theirs:
            stdio = [inherited if fd == -1 else fd for fd, inherited in wanted]
            _client().send(job, [*stdio, theirs.fileno()])
        self.pid = self._receive()
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self.running.append(self)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        try:
            status = self._receive(socket.MSG_DONTWAIT if wait_flags else 0)
        except BlockingIOError:
            return 0, 0
        self._status.close()
        self.running.remove(self)
        return self.pid, status & ~STATUS_FLAG

    def _receive(self, flags: int = 0) -> int:
        number = self._status.recv(STATUS_BYTES, flags)
        if not number:
            log = Path(os.environ[ADDRESS_VARIABLE]).with_name("log")
            raise RuntimeError(f"the fork server has ended: {log.read_text(errors='replace')}")
        return int.from_bytes(number, "big")


class _Client:
    """This process's connection to the server."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(os.environ[ADDRESS_VARIABLE])
        atexit.register(self._socket.close)

    def send(self, job: Mapping[str, Any], fds: Sequence[int]) -> None:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(job).encode()], fds)


_clients: list[_Client] = []
_connecting = threading.Lock()


def _client() -> _Client:
    with _connecting:
        if not _clients or _clients[-1].pid != os.getpid():
            if ADDRESS_VARIABLE not in os.environ:
                start_server()
            _clients.append(_Client())
        return _clients[-1]


def start_server() -> None:
    """Start the server of this process and of its children; it ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
    address = folder / "socket"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE_")}
    # A forked process cannot use a GPU that the server has looked at.
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        (folder / "log").open("wb") as log,
    ):
        listener.bind(str(address))
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/support/fork_server.py"), str(listener.fileno())],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    os.environ[ADDRESS_VARIABLE] = str(address)
    atexit.register(_end_server, server, folder, os.getpid())


def _end_server(server: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        server.communicate()
        shutil.rmtree(folder)
