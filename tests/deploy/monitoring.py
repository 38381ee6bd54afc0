"""Prometheus and Alertmanager with the shipped files, and a webhook that alerts arrive at."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from deploy.scale import copy_scaled
from tests.subscribers.exporter.prometheus import Prometheus, free_address


class Notification(NamedTuple):
    """One alert of one message; ``status`` is ``firing`` or ``resolved``."""

    status: str
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    started_at: str


class Webhook:
    """An HTTP server that keeps the alerts that Alertmanager posts."""

    def __init__(self) -> None:
        self.received: list[Notification] = []
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receive(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, message: dict[str, Any]) -> None:
        self.received += [
            Notification(
                alert["status"],
                alert["labels"]["alertname"],
                alert["labels"],
                alert["annotations"],
                alert["startsAt"],
            )
            for alert in message["alerts"]
        ]


class Monitoring:
    """The shipped configuration, with other addresses and all times divided by ``factor``."""

    def __init__(
        self, require_program: Callable[[str], str], folder: Path, exporter: str, factor: float
    ) -> None:
        folder.mkdir()
        copy_scaled(factor, folder)
        token = folder / "token"
        token.write_text("none is needed")
        address = free_address()
        text = (folder / "prometheus" / "prometheus.yml").read_text()
        text = text.replace("/run/lineside/prometheus.token", str(token))
        text = text.replace("alertmanager:9093", address)
        self.prometheus = Prometheus(
            require_program("prometheus"), folder / "prometheus", exporter, text
        )
        self.webhook = Webhook()
        self._log = folder / "alertmanager.log"
        self._command = [
            "sh",
            str(folder / "alertmanager" / "start.sh"),
            f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ]
        self._environment = {
            **os.environ,
            "ALERT_WEBHOOK_URL": self.webhook.url,
            "ALERTMANAGER": require_program("prometheus-alertmanager"),
            "ALERTMANAGER_CONFIG": str(folder / "alertmanager.yml"),
        }

    def __enter__(self) -> Monitoring:
        self.webhook.__enter__()
        with self._log.open("wb") as log:
            self._alertmanager = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        self.prometheus.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.prometheus.__exit__()
        self._alertmanager.kill()
        self._alertmanager.wait()
        self.webhook.__exit__()
        print(self._log.read_text()[-2000:])
