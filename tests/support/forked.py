"""Python scripts that start with torch and transformers loaded, forked from one server process."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.fork_server import ROOT, STATUS_BYTES, STATUS_FLAG


class ForkedScript(subprocess.Popen[Any]):
    """``python SCRIPT ARGUMENT...`` forked from the server, in everything else a Popen.

    The command has no interpreter. Of Popen's options, these work: stdin, stdout, stderr, text, env,
    cwd and start_new_session. ``/proc`` shows the server's command line and environment.
    """

    running: list[ForkedScript] = []
    """Those that this process started and has not seen end."""

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
            _server().send(job, [*stdio, theirs.fileno()])
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
            raise RuntimeError(f"the fork server ended: {_server().log_text()}")
        return int.from_bytes(number, "big")


class _Server:
    """The process of ``fork_server.py``; it ends when its socket is closed."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE_")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/support/fork_server.py"), str(theirs.fileno())],
                # Forked children cannot use a GPU which the server has looked at.
                env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self.close)

    def send(self, job: Mapping[str, Any], fds: Sequence[int]) -> None:
        with self._lock:
            socket.send_fds(self._jobs, [json.dumps(job).encode()], fds)

    def log_text(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        if self.pid == os.getpid():
            self._jobs.close()
            self._process.wait()
            self._log.close()


_started: list[_Server] = []
_starting = threading.Lock()


def _server() -> _Server:
    with _starting:
        if not _started or _started[-1].pid != os.getpid():
            _started.append(_Server())
        return _started[-1]
