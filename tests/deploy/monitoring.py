"""Prometheus and Alertmanager with the shipped files, and a webhook that alerts arrive at."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from deploy.scale import copy_scaled
from tests.subscribers.exporter.prometheus import Prometheus, free_address
from tests.support.waiting import DEADLINE


class Notification(NamedTuple):
    """One alert of one message; ``status`` is ``firing`` or ``resolved``."""

    status: str
    name: str
    labels: dict[str, str]


class Webhook:
    """An HTTP server that keeps the alerts that Alertmanager posts."""

    def __init__(self) -> None:
        self.messages: list[list[Notification]] = []
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

    @property
    def received(self) -> list[Notification]:
        """The alerts of all messages."""
        return [found for message in self.messages for found in message]

    def _receive(self, message: dict[str, Any]) -> None:
        self.messages.append(
            [
                Notification(alert["status"], alert["labels"]["alertname"], alert["labels"])
                for alert in message["alerts"]
            ]
        )


class Alertmanager:
    """Alertmanager with the shipped files in ``folder``, where the webhook is its receiver."""

    def __init__(self, require_program: Callable[[str], str], folder: Path) -> None:
        self.address = free_address()
        self.webhook = Webhook()
        self._log = folder / "alertmanager.log"
        self._command = [
            "sh",
            str(folder / "alertmanager" / "start.sh"),
            f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        ]
        self._environment = {
            **os.environ,
            "ALERT_WEBHOOK_URL": self.webhook.url,
            "ALERTMANAGER": require_program("prometheus-alertmanager"),
            "ALERTMANAGER_CONFIG": str(folder / "alertmanager.yml"),
        }

    def __enter__(self) -> Alertmanager:
        self.webhook.__enter__()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.webhook.__exit__()
        print(self._log.read_text()[-2000:])

    def post(self, *alerts: dict[str, str]) -> bool:
        """Let alerts with these labels fire; whether it took them, which it does once it is up."""
        request = urllib.request.Request(
            f"http://{self.address}/api/v2/alerts",
            data=json.dumps([{"labels": labels} for labels in alerts]).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE):  # noqa: S310
                return True
        except OSError:
            return False


class Monitoring:
    """The shipped configuration, with other addresses and all times divided by ``factor``.

    ``token`` is the exporter's, if it needs one.
    """

    def __init__(
        self,
        require_program: Callable[[str], str],
        folder: Path,
        exporter: str,
        factor: float,
        token: str | None = None,
    ) -> None:
        folder.mkdir()
        copy_scaled(factor, folder)
        token_file = folder / "token"
        token_file.write_text(token or "none is needed")
        self._alertmanager = Alertmanager(require_program, folder)
        self.webhook = self._alertmanager.webhook
        text = (folder / "prometheus" / "prometheus.yml").read_text()
        text = text.replace("/run/lineside/prometheus.token", str(token_file))
        text = text.replace("alertmanager:9093", self._alertmanager.address)
        self.prometheus = Prometheus(
            require_program("prometheus"), folder / "prometheus", exporter, text
        )

    def __enter__(self) -> Monitoring:
        self._alertmanager.__enter__()
        self.prometheus.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.prometheus.__exit__()
        self._alertmanager.__exit__()
