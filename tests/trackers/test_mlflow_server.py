"""A real MLflow server that is away, answers 500 or hangs has every value once in the end."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.support.waiting import DEADLINE, wait_until
from tests.trackers import stores
from tests.trackers.comparison import differences
from tests.trackers.harness import TRAINING_SECONDS, Twins

pytestmark = pytest.mark.timeout(900)

NORMAL, ERRORS, LIMITED, HANGING = "normal", "500", "429", "hanging"
HANG_SECONDS = 40.0  # more than the host's timeout of a request


class Server:
    """``mlflow server`` on SQLite, started again after a kill."""

    def __init__(self, folder: Path) -> None:
        self.store = f"sqlite:///{folder}/server.db"
        self.log = folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._artifacts = folder / "artifacts"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores_of = ["--backend-store-uri", self.store, "--artifacts-destination"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *stores_of, self._artifacts, *options],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self._answers, "the MLflow server answers", 3 * DEADLINE)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as got:
                return bool(got.status == 200)
        except (URLError, OSError):
            return False


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards requests to ``port``, unless ``mode`` has it fail them.

    Of the failing ones, every other request reaches the server, and its answer is lost.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.mode, self.failed = port, NORMAL, 0
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fail_some(self, mode: str) -> None:
        """Fail requests until there were two."""
        before, self.mode = self.failed, mode
        wait_until(lambda: self.failed > before + 1, f"requests meet {mode}")
        self.mode = NORMAL


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = self.server.mode
        if mode == NORMAL:
            self._answer(*self._send(body))
            return
        self.server.failed += 1
        if self.server.failed % 2:
            self._send(body)
        if mode == HANGING:
            time.sleep(HANG_SECONDS)
        self._answer(429 if mode == LIMITED else 500, b'{"error_code": "INTERNAL_ERROR"}')

    def _send(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            headers = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 502, b"{}"
        finally:
            connection.close()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client waits no longer
            super().handle()

    do_GET = do_POST = do_PATCH = do_DELETE = _forward  # noqa: N815 - as http.server names them

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        made.start()
        yield made
    finally:
        made.kill()


def test_a_server_that_is_killed_and_fails_has_every_value_once(
    twins: Twins, server: Server, tmp_path: Path
) -> None:
    local = f"sqlite:///{tmp_path}/in-process.db"
    with Proxy(server.port) as proxy:
        variables = {"MLFLOW_TRACKING_URI": proxy.address}
        twins.start_host([{"name": "mlflow", "id": "mlflow", "environment": variables}])
        training = twins.start_training("slow", ["mlflow"], {"MLFLOW_TRACKING_URI": local})
        wait_until(lambda: _has_values(server), "the server has values", 3 * DEADLINE)
        for mode in (ERRORS, LIMITED, HANGING):
            proxy.fail_some(mode)
        server.kill()
        assert training.wait(TRAINING_SECONDS) == 0, training.log_text()[-6000:]
        server.start()
        twins.wait_hosted("mlflow")
    in_process, hosted = stores.mlflow(local), stores.mlflow(server.store)
    assert len(hosted.points["loss"]) == 60
    assert not hosted.repeated()
    assert hosted.details["runs"] == 1
    expected = {"tag/lineside.run"}
    assert differences(in_process, hosted).keys() == expected


def _has_values(server: Server) -> bool:
    return bool(stores.mlflow(server.store).points.get("loss"))
