"""The stack as another user, with a folder of the machine as its bus, and with PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.compose.stack import WHY_NOT, Stack, docker, has_image
from tests.support.waiting import wait_until

if WHY_NOT:
    pytest.skip(WHY_NOT, allow_module_level=True)

pytestmark = pytest.mark.timeout(1200)

POSTGRES_IMAGE = os.environ.get("POSTGRES_IMAGE", "postgres:17")
HAS_POSTGRES = has_image(POSTGRES_IMAGE)
STORE = "postgresql://lineside@postgres/lineside?passfile=/var/lib/lineside/home/postgres.pgpass"
SERVICES = ("setup", "broker", "recorder", "shipper", "dashboard")
JOB = """
from lineside.emitter import start_run
with start_run("a job", run_id="{run}") as run:
    for step in range(500):
        run.log({{"loss": 1 / (step + 1)}}, step=step)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("variants")
    variables = {"LINESIDE_USER": f"{os.getuid()}:{os.getgid()}", "LINESIDE_BUS": f"{folder}/bus"}
    (folder / "bus").mkdir(mode=0o700)
    services = list(SERVICES)
    if HAS_POSTGRES:
        variables |= {
            "COMPOSE_PROFILES": "postgres",
            "LINESIDE_STORE": STORE,
            "POSTGRES_IMAGE": POSTGRES_IMAGE,
        }
        services.append("postgres")
    found = Stack(folder, "lineside-variants", **variables)
    found.remove()
    try:
        found.compose("up", "-d", "--build", "--wait", *services)
        found.log_in()
        yield found
    finally:
        found.remove()


def work(stack: Stack, run: str) -> None:
    """Run a job of this machine beside the stack, until all of its events are recorded."""
    environment = {name: one for name, one in os.environ.items() if not name.startswith("LINESIDE")}
    environment["LINESIDE_HOME"] = str(stack.folder / "bus")
    subprocess.run(
        [sys.executable, "-c", JOB.format(run=run)], env=environment, timeout=100, check=True
    )

    def account() -> dict[str, int]:
        found = {}
        with suppress(urllib.error.HTTPError):  # no store: PostgreSQL is coming back
            found = {one["id"]: one for one in stack.runs()}
        recorded: dict[str, int] = found[run]["loss_account"] if run in found else {}
        return recorded if recorded.get("recorded", 0) >= 500 and not recorded["lag"] else {}

    assert wait_until(account)["gaps"] == 0
    assert stack.get(f"/api/runs/{run}")["status"] == "finished"


def test_a_job_without_a_container_needs_one_variable(stack: Stack) -> None:
    work(stack, "beside")


@pytest.mark.skipif(not HAS_POSTGRES, reason=f"the engine has no image {POSTGRES_IMAGE}")
def test_the_history_is_in_postgresql_and_survives_its_kill(stack: Stack) -> None:
    work(stack, "before")
    before = stack.state("postgres")["RestartCount"]
    os.kill(int(stack.state("postgres")["State"]["Pid"]), signal.SIGKILL)
    work(stack, "after")
    assert stack.state("postgres")["RestartCount"] > before
    count = "SELECT count(*) FROM runs WHERE id IN ('before', 'after')"
    psql = ("psql", "-U", "lineside", "-d", "lineside", "-tAc", count)
    assert stack.compose("exec", "-T", "postgres", *psql).strip() == "2"
    password = stack.compose("exec", "-T", "postgres", "cat", "/run/secrets/postgres/password")
    assert len(password) > 20
    assert password not in docker("inspect", *stack.compose("ps", "-aq").split())
