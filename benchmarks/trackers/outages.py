"""Trainings whose tracker is down, hangs or answers 500, beside one whose tracker is well."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

from benchmarks.trackers.hosting import Hosting
from benchmarks.trackers.runs import Times, median, ratios, train
from benchmarks.trackers.stock import environment
from tests.support.ports import free_port

STATES = ("well", "down", "hangs", "answers 500")
START_SECONDS = 120.0
NOTE = """\
A training whose values go to a hosted MLflow, and one whose values an uploader posts to an HTTP
endpoint. The server takes turns in being well, down (its port is closed), hanging (it accepts and
never answers) and answering 500; ratios are to the turn with a server that is well."""


def measure(rounds: int) -> str:
    """The table; each round trains once in each state of each server."""
    lines = [
        "| values go to | which | set-up, s | step, ms | to well | end, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, train_in in (
        ("MLflow", _train_with_mlflow),
        ("an HTTP endpoint", _train_with_upload),
    ):
        times: dict[str, list[Times]] = {state: [] for state in STATES}
        for _ in range(rounds):
            for state in STATES:
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    times[state].append(train_in(state, Path(folder)))
        for state, found in times.items():
            lines.append(
                f"| {name} | {state} | {median(found, 'set_up'):.1f} | {median(found, 'step'):.1f} "
                f"| {ratios(found, times['well'], 'step')} | {median(found, 'close'):.1f} |"
            )
    return "\n".join(lines)


def _train_with_mlflow(state: str, folder: Path) -> Times:
    with _mlflow(folder) if state == "well" else _endpoint(state) as address:
        variables = {**environment(folder), "MLFLOW_TRACKING_URI": address}
        with Hosting(folder / "home", variables, ["mlflow"]) as hosting:
            return train(folder / "work", _run(hosting), lineside=True)


def _train_with_upload(state: str, folder: Path) -> Times:
    with _endpoint(state) as address:
        upload = {"url": address, "interval": 1}
        with Hosting(folder / "home", environment(folder), upload=upload) as hosting:
            return train(folder / "work", _run(hosting), lineside=True)


def _run(hosting: Hosting) -> dict[str, str]:
    return {**hosting.environment, "LINESIDE_RUN_ID": "run"}


@contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    """A real server on a new SQLite store."""
    port = free_port()
    options = ["--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options, *store],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_SECONDS
        while not _is_up(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "server.log").read_text()[-3000:])
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _endpoint(state: str) -> Iterator[str]:
    """The address of a server in ``state``."""
    if state == "down":
        yield f"http://127.0.0.1:{free_port()}"
        return
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if state == "hangs":
                over.wait()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200 if state == "well" else 500)
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310
            return True
    except (OSError, urllib.error.URLError):
        return False
