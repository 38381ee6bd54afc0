"""A real Prometheus that scrapes an exporter, by default every second."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.waiting import DEADLINE

CONFIG = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: lineside
    static_configs:
      - targets: ["exporter:9743"]
"""
"""The addresses in a configuration are ``exporter:9743`` and ``localhost:9090``, its own."""


class Prometheus:
    """A server on a free port; a context starts and kills it."""

    def __init__(
        self, program: str, folder: Path, target: str, config_text: str = CONFIG, *options: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        config = folder / "prometheus.yml"
        self.address = free_address()
        config_text = config_text.replace("exporter:9743", target.removeprefix("http://"))
        config.write_text(config_text.replace("localhost:9090", self.address))
        self._log = folder / "log"
        self._command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            *options,
        ]

    def __enter__(self) -> Prometheus:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        print(self._log.read_text()[-2000:])

    def query(self, text: str) -> list[dict[str, Any]]:
        """The instant vector of a query; empty while the server starts."""
        query = urllib.parse.urlencode({"query": text})
        url = f"http://{self.address}/api/v1/query?{query}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise AssertionError(error.read().decode()) from error
            return []
        except OSError:
            return []


def free_address() -> str:
    """An address of this machine on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def check_metrics(promtool: str, page: str) -> None:
    """Fail on what ``promtool check metrics`` finds on a page in the text format."""
    ended = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
