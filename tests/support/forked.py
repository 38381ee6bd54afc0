"""Scripts and ``lineside`` commands forked from a server that has imported what they need."""

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
TRAINER, COMMANDS = "trainer", "commands"
"""The arguments that choose what a server imports."""


class ForkedProcess(subprocess.Popen[Any]):
    """A Popen whose process is forked from ``server``.

    Of the options of Popen these work: stdin, stdout, stderr, text, env, cwd and start_new_session.
    ``/proc`` shows the command line and the environment of the server. A service that ends with its
    supervisor ends with the server, and the server with the session of tests.

    Raises:
        ValueError: another option that changes the new process.
    """

    running: ClassVar[list[ForkedProcess]] = []
    """What this process started and has not ended."""
    server: ClassVar[str]

    def __init__(self, command: Sequence[str | Path], **options: Any) -> None:
        self.environment: Mapping[str, str] = options.get("env") or os.environ
        super().__init__([str(part) for part in command], **options)

    def _execute_child(self, args: list[str], *given: Any) -> None:
        preexec_fn, pass_fds, cwd = given[1], given[3], given[4]
        pipes, start_new_session = given[9:15], given[20]
        if preexec_fn or pass_fds:
            raise ValueError("a forked process takes neither preexec_fn nor pass_fds")
        job = {
            "argv": args,
            "env": dict(self.environment),
            "cwd": str(cwd or Path.cwd()),
            "start_new_session": bool(start_new_session),
            "client": os.getpid(),
        }
        wanted = zip((pipes[0], pipes[3], pipes[5]), (0, 1, 2), strict=True)
        self._status, theirs = socket.socketpair()
        with theirs:
            stdio = [inherited if fd == -1 else fd for fd, inherited in wanted]
            _client(self.server).send(job, [*stdio, theirs.fileno()])
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
            log = Path(os.environ[_address_variable(self.server)]).with_name("log")
            raise RuntimeError(f"the fork server has ended: {log.read_text(errors='replace')}")
        return int.from_bytes(number, "big")


class ForkedScript(ForkedProcess):
    """``python SCRIPT ARGUMENT...``, forked with torch and transformers imported.

    The command names no interpreter; the script can import ``tests``.
    """

    server: ClassVar[str] = TRAINER


class ForkedCommand(ForkedProcess):
    """``python -m lineside.cli COMMAND...``, forked with its imports done."""

    server: ClassVar[str] = COMMANDS

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        python, dash_m, module, *arguments = command
        if (python, dash_m, module) != (sys.executable, "-m", "lineside.cli"):
            raise ValueError(f"expected python -m lineside.cli, got {command}")
        super().__init__([module, *arguments], **options)


def run_lineside(
    *arguments: str,
    timeout: float,
    popen: type[subprocess.Popen[str]] = ForkedCommand,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """The end of ``lineside ARGUMENT...`` and its output.

    Raises:
        subprocess.TimeoutExpired: it did not end within ``timeout`` seconds.
    """
    command = [sys.executable, "-m", "lineside.cli", *arguments]
    with popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


class _Client:
    """This process's connection to a server."""

    def __init__(self, address: str) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(address)
        atexit.register(self._socket.close)

    def send(self, job: Mapping[str, Any], fds: Sequence[int]) -> None:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(job).encode()], fds)


_clients: dict[str, _Client] = {}
_connecting = threading.Lock()


def _client(server: str) -> _Client:
    with _connecting:
        client = _clients.get(server)
        if client is None or client.pid != os.getpid():
            if _address_variable(server) not in os.environ:
                start_server(server)
            client = _clients[server] = _Client(os.environ[_address_variable(server)])
        return client


def _address_variable(server: str) -> str:
    """The environment variable that holds the path of the server's socket."""
    return f"TESTS_FORK_SERVER_{server.upper()}"


def start_server(server: str) -> None:
    """Start a server for this process and its children; it ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
    address = folder / "socket"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE_")}
    # A forked process cannot use a GPU that the server has looked at.
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = str(ROOT / "tests/support/fork_server.py")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        (folder / "log").open("wb") as log,
    ):
        listener.bind(str(address))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, script, str(listener.fileno()), server],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    os.environ[_address_variable(server)] = str(address)
    atexit.register(_end_server, process, folder, os.getpid())


def _end_server(server: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        server.communicate()
        shutil.rmtree(folder)
