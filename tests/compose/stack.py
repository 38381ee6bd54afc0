"""A stack of containers from ``compose.yaml``, as a project of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PROJECT = "lineside-test"
TAG = "compose-test"
FIRST, NEXT = "0.1.0", "0.1.0+next"
"""The versions of the images before and after the upgrade."""
MINUTES = 60.0
NO_ENGINE = "no container engine with compose answers here: {}"
_STAND_INS = {
    "PROMETHEUS_IMAGE": "prom/prometheus:latest",
    "ALERTMANAGER_IMAGE": "prom/alertmanager:latest",
}


def why_no_engine() -> str:
    """Why no stack can be started on this machine; empty if one can."""
    if shutil.which("docker") is None:
        return NO_ENGINE.format("docker is not installed")
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no output"]
            return NO_ENGINE.format(lines[-1])
    return ""


def docker(*arguments: str, seconds: float = 5 * MINUTES) -> str:
    """What a command of docker prints.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def has_image(name: str) -> bool:
    """Whether the engine has this image."""
    found = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False)
    return found.returncode == 0


IS_ASKED_FOR = os.environ.get("COMPOSE_TESTS") == "1"
WHY_NOT = why_no_engine() if IS_ASKED_FOR else "takes minutes: `make test-compose` runs it"
"""Why the tests of a stack do not run; empty if they do."""


USES_STAND_INS = not WHY_NOT and all(map(has_image, _STAND_INS.values()))
"""Whether the engine has images of Prometheus and Alertmanager under other tags, and takes them."""


class Stack:
    """A project with ``variables`` in its environment. ``folder`` has files that containers mount.

    The images of Prometheus and Alertmanager are those of ``compose.yaml``, or, where the engine
    has images of the same programs under other tags, these.
    """

    def __init__(self, folder: Path, project: str = PROJECT, **variables: str) -> None:
        self.folder = folder
        self.project = project
        self.token = ""
        self.page, self.prometheus, broker = (f"127.0.0.1:{free_port()}" for _ in range(3))
        files = ["compose.yaml"]
        self._environment: dict[str, str] = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": project,
            "LINESIDE_TAG": TAG,
            "LINESIDE_VERSION": FIRST,
            "DEMO_SECONDS": "3000",  # it is always stopped
            "LINESIDE_PAGE": self.page,
            "LINESIDE_BROKER_PORT": broker.partition(":")[2],
            "PROMETHEUS_PAGE": self.prometheus,
            "ALERTMANAGER_PAGE": f"127.0.0.1:{free_port()}",
            "GRAFANA_PAGE": f"127.0.0.1:{free_port()}",
            **variables,
        }
        if USES_STAND_INS:
            self._environment |= {"TORCH_INDEX": "", **_STAND_INS}
            files.append("tests/compose/stand-ins.yaml")
        self._environment["COMPOSE_FILE"] = ":".join(str(ROOT / file) for file in files)

    @property
    def network(self) -> str:
        return f"{self.project}_default"

    def compose(
        self,
        *arguments: str,
        variables: Mapping[str, str] | None = None,
        seconds: float = 15 * MINUTES,
    ) -> str:
        """What ``docker compose`` prints on stdout.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            ["docker", "compose", *arguments],
            env={**self._environment, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-3000:]}"
        return done.stdout

    def services(self, *options: str) -> list[str]:
        """The services of the profile of ``options``; without Grafana beside stand-ins."""
        found = self.compose(*options, "config", "--services").split()
        return sorted(set(found) - ({"grafana"} if USES_STAND_INS else set()))

    def log_in(self) -> None:
        """Take the token from what the first start printed."""
        found = re.search(r"token +(ls_\S+)", self.compose("logs", "--no-log-prefix", "setup"))
        assert found is not None
        self.token = found[1]

    def get(self, path: str, *, token: str | None = None) -> Any:
        """The JSON of the dashboard's API."""
        shown = self.token if token is None else token
        header = {"Authorization": f"Bearer {shown}"} if shown else {}
        return _json(urllib.request.Request(f"http://{self.page}{path}", headers=header))

    def runs(self) -> list[dict[str, Any]]:
        """Runs, the newest first."""
        items: list[dict[str, Any]] = self.get("/api/runs")["items"]
        return items

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values that Prometheus has now."""
        encoded = urllib.parse.urlencode({"query": expression})
        answer = _json(f"http://{self.prometheus}/api/v1/query?{encoded}")
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def container(self, service: str) -> str:
        """The id of the service's container, also if it has ended."""
        return self.compose("ps", "-aq", service).strip()

    def state(self, service: str) -> dict[str, Any]:
        """What the engine reports of the service's container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def main_pid(self, service: str) -> int:
        """The process of the service, below the container's own init if it has one."""
        container = self.container(service)
        first = int(docker("inspect", "-f", "{{.State.Pid}}", container))
        table = docker("top", container, "-eo", "pid,ppid").splitlines()[1:]
        children = [int(pid) for pid, parent in map(str.split, table) if int(parent) == first]
        return children[0] if children else first

    def wait_healthy(self, services: Sequence[str]) -> None:
        """Wait until each of these does its work."""
        for service in services:
            wait_until(
                lambda service=service: self._is_healthy(service),  # type: ignore[misc]
                f"{service} is healthy",
            )

    def _is_healthy(self, service: str) -> bool:
        state = self.state(service)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def remove(self) -> None:
        """End all containers and remove the volumes."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5")


def _json(request: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - of this machine
        return json.load(answer)
