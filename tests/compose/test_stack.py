"""The stack of ``compose.yaml`` in a real engine, with a real training beside it.

``make test-compose`` runs it; it takes minutes, and the whole suite leaves it out. The tests belong
to one stack and are in order: each leaves it running.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.compose.stack import FIRST, NEXT, PROJECT, TAG, USES_STAND_INS, WHY_NOT, Stack, docker
from tests.dashboard.conftest import browser
from tests.support.waiting import wait_until

__all__ = ["browser"]

if WHY_NOT:
    pytest.skip(WHY_NOT, allow_module_level=True)

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("stack"),
]

DEMO = ("--profile", "demo")
LONG = 300.0
OF_OTHER_PROCESSES = (
    *("heartbeat", "metrics", "process_exit"),
    *("command", "control_on", "control_delivered", "control_applied"),
)
"""Kinds of events that the exporter does not count as those of the training."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with the demo's training, as the how-to starts it."""
    found = Stack(tmp_path_factory.mktemp("compose"))
    found.remove()
    try:
        found.compose(*DEMO, "up", "-d", "--build", "--wait", *found.services(*DEMO))
        found.log_in()
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def own(stack: Stack) -> list[str]:
    """The services that go on, without those of a profile."""
    return [name for name in stack.services() if name != "setup"]


@pytest.fixture(scope="module")
def first_run(stack: Stack) -> str:
    """The training that was started with the stack."""
    runs: list[dict[str, Any]] = wait_until(stack.runs, "the training is recorded", LONG)
    return str(runs[-1]["id"])


def ended(stack: Stack, run_id: str) -> dict[str, Any]:
    """The run once it has ended and every event of it is recorded."""

    def found() -> dict[str, Any] | None:
        run = stack.get(f"/api/runs/{run_id}")
        has_ended = run["status"] in ("finished", "stopped", "interrupted", "killed", "lost")
        is_whole = run["loss_account"]["lag"] == 0
        return run if has_ended and is_whole else None

    return wait_until(found, f"{run_id} has ended and is recorded", LONG)


def trains_on(stack: Stack, run_id: str, steps: int = 8) -> None:
    """Wait until the store has ``steps`` more steps of the run."""
    before = stack.get(f"/api/runs/{run_id}")["step"] or 0
    wait_until(
        lambda: (stack.get(f"/api/runs/{run_id}")["step"] or 0) >= before + steps,
        f"{run_id} trains on",
        LONG,
    )


def assert_nothing_is_lost(run: dict[str, Any]) -> None:
    account = run["loss_account"]
    assert account["emitted"] > 0
    assert account == {"emitted": account["emitted"], "recorded": account["emitted"]} | {
        "gaps": 0,
        "lag": 0,
    }


def begin_demo(stack: Stack) -> str:
    """The id of another training of the demo."""
    before = {one["id"] for one in stack.runs()}
    stack.compose(*DEMO, "up", "-d", "--wait", *stack.services(*DEMO))
    found: str | None = wait_until(
        lambda: next((one["id"] for one in stack.runs() if one["id"] not in before), None),
        "the next training is recorded",
    )
    assert found is not None
    return found


def load_checkpoint(step: int) -> str:
    """What a fresh container prints that loads the checkpoint and uses the model."""
    code = (
        "import torch; from transformers import GPT2LMHeadModel; "
        f"model = GPT2LMHeadModel.from_pretrained('/checkpoints/checkpoint-{step}'); "
        "ids = torch.tensor([list(b'import ')]); "
        "print(torch.isfinite(model(input_ids=ids, labels=ids).loss).item())"
    )
    image = f"lineside-demo:{TAG}"
    volume = f"{PROJECT}_demo-checkpoints:/checkpoints:ro"
    return docker("run", "--rm", "--network", "none", "-v", volume, image, "python", "-c", code)


def test_a_training_beside_the_stack_is_recorded_and_exported(
    stack: Stack, own: list[str], first_run: str
) -> None:
    trains_on(stack, first_run)
    run = stack.get(f"/api/runs/{first_run}")
    assert (run["project"], run["status"]) == ("demo", "running")
    selector = f'{{run="{first_run}"}}'
    step = wait_until(lambda: stack.query(f"lineside_run_step{selector}"), "Prometheus has it")
    assert 0 < step[0][1] <= stack.get(f"/api/runs/{first_run}")["step"]
    assert [value for _, value in stack.query('up{job="lineside"}')] == [1]
    assert {service: stack._is_healthy(service) for service in own} == dict.fromkeys(own, True)


@pytest.mark.skipif(USES_STAND_INS, reason="the engine has no image of Grafana")
def test_grafana_has_the_dashboards(stack: Stack) -> None:
    found = json.loads(
        stack.compose(
            *("exec", "-T", "grafana", "sh", "-c"),
            'wget -q -O - "http://admin:$(cat /run/grafana-password/password)@127.0.0.1:3000'
            '/api/search?type=dash-db"',
        )
    )
    assert len(found) == 3


def test_without_a_token_nothing_is_shown(stack: Stack) -> None:
    for path in ("/api/runs", "/api/audit"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            stack.get(path, token="")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.get("/api/runs", token="ls_wrong")  # noqa: S106


def test_no_container_may_do_more_than_it_needs(stack: Stack, own: list[str]) -> None:
    for service in [*own, "demo"]:
        host = stack.state(service)["HostConfig"]
        assert host["ReadonlyRootfs"] is True, service
        assert host["CapDrop"] == ["ALL"], service
        assert host["Memory"] > 0, service
        assert not host["Privileged"], service
    for image in ("lineside", "lineside-demo"):
        user = docker("image", "inspect", "-f", "{{.Config.User}}", f"{image}:{TAG}")
        assert user.strip() == "10001:10001"


def test_no_secret_is_in_an_image_or_in_what_the_engine_shows(stack: Stack) -> None:
    home = "/var/lib/lineside/home"
    key = json.loads(stack.compose("exec", "-T", "broker", "cat", f"{home}/keys/trainer.key"))
    pgpass = stack.compose("exec", "-T", "broker", "cat", f"{home}/postgres.pgpass")
    scrape = stack.compose("exec", "-T", "prometheus", "cat", "/run/lineside/prometheus.token")
    secrets = [stack.token, key["secret"], pgpass.strip().rpartition(":")[2], scrape.strip()]
    assert all(len(secret) > 20 for secret in secrets)
    containers = stack.compose("ps", "-aq").split()
    shown = docker("inspect", *containers)
    for image in ("lineside", "lineside-demo"):
        shown += docker("history", "--no-trunc", f"{image}:{TAG}")
        shown += docker("image", "inspect", f"{image}:{TAG}")
    for container in containers:
        with suppress(AssertionError):  # it has ended
            shown += docker("top", container, "-eo", "pid,args")
    assert [secret for secret in secrets if secret in shown] == []


def test_each_process_may_be_killed(stack: Stack, own: list[str], first_run: str) -> None:
    before = {service: stack.state(service)["RestartCount"] for service in own}
    for service in own:
        os.kill(stack.main_pid(service), signal.SIGKILL)
        time.sleep(1)  # each while the others are still coming back
    for service in own:
        wait_until(
            lambda service=service: stack.state(service)["RestartCount"] > before[service],  # type: ignore[misc]
            f"{service} is started again",
        )
    stack.wait_healthy(own)
    trains_on(stack, first_run)
    assert stack.get(f"/api/runs/{first_run}")["loss_account"]["gaps"] == 0


def test_a_job_elsewhere_survives_the_loss_of_its_network(stack: Stack) -> None:
    key = stack.folder / "trainer.key"
    stack.compose("cp", "broker:/var/lib/lineside/home/keys/trainer.key", str(key))
    name = f"{PROJECT}-elsewhere"
    docker(
        *("run", "-d", "--name", name, "--network", stack.network, "--user", "0:0"),
        *("-v", f"{key}:/trainer.key:ro", "-e", "LINESIDE_KEY=/trainer.key"),
        *("-e", "LINESIDE_BROKER=tcp://broker:7430", "-e", "LINESIDE_RUN_ID=elsewhere"),
        f"lineside-demo:{TAG}",
        *("python", "-m", "lineside.examples.train_gpt2", "--output", "/out", "--seconds", "3000"),
    )
    try:

        def status() -> str:
            with suppress(urllib.error.HTTPError):
                return str(stack.get("/api/runs/elsewhere")["status"])
            return ""

        wait_until(lambda: status() == "running", "the job elsewhere is recorded", LONG)
        trains_on(stack, "elsewhere")
        exporter = stack.container("exporter")
        docker("network", "disconnect", stack.network, name)
        docker("network", "disconnect", stack.network, exporter)
        wait_until(lambda: status() == "disconnected", "the page shows that the job is gone")
        wait_until(lambda: stack.query('up{job="lineside"} == 0'), "Prometheus misses the exporter")
        docker("network", "connect", stack.network, name)
        docker("network", "connect", "--alias", "exporter", stack.network, exporter)
        wait_until(lambda: status() == "running", "the job is back")
        wait_until(lambda: stack.query('up{job="lineside"} == 1'), "the exporter is back")
        stack.compose("exec", "-T", "dashboard", "lineside", "stop", "elsewhere")
        run = ended(stack, "elsewhere")
        assert run["status"] == "stopped"
        assert_nothing_is_lost(run)
        assert docker("wait", name).strip() == "0"
    finally:
        docker("rm", "-f", name)


def test_an_upgrade_keeps_the_history_and_the_training(stack: Stack, first_run: str) -> None:
    before = {one["id"] for one in stack.runs()}
    demo, broker = stack.container("demo"), stack.container("broker")
    upgraded = {"LINESIDE_VERSION": NEXT}
    stack.compose("up", "-d", "--build", "--wait", *stack.services(), variables=upgraded)
    label = '{{index .Config.Labels "org.opencontainers.image.version"}}'
    assert stack.container("broker") != broker
    assert docker("inspect", "-f", label, stack.container("broker")).strip() == NEXT
    assert docker("inspect", "-f", label, demo).strip() == FIRST
    assert stack.container("demo") == demo
    assert "earlier start" in stack.compose("logs", "--no-log-prefix", "setup")
    trains_on(stack, first_run)
    assert {one["id"] for one in stack.runs()} == before


def test_a_training_is_stopped_from_the_page_and_all_figures_agree(
    stack: Stack, browser: Any, first_run: str
) -> None:
    run_id = first_run
    trains_on(stack, run_id)
    page = browser.new_page()
    page.goto(f"http://{stack.page}/runs/{run_id}")
    page.get_by_label("Token").fill(stack.token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_function("() => document.documentElement.dataset.ready !== undefined")
    page.get_by_role("button", name="Stop…").click()
    page.get_by_role("button", name="Stop training").click()
    page.close()
    assert docker("wait", stack.container("demo")).strip() == "0"
    run = ended(stack, run_id)  # with the last event of its process
    assert run["status"] == "stopped"
    assert_nothing_is_lost(run)
    command = stack.get(f"/api/runs/{run_id}/commands")["items"][0]
    assert (command["op"], command["state"]) == ("stop", "applied")
    assert load_checkpoint(run["step"]).strip() == "True"
    selector = f'{{run="{run_id}"}}'
    stopped = f'lineside_run_status{{run="{run_id}",status="stopped"}} == 1'
    wait_until(lambda: stack.query(stopped), "Prometheus knows that it was stopped")
    names = ("loss", "learning_rate", "grad_norm")
    exported = {name: stack.query(f"lineside_run_{name}{selector}")[0][1] for name in names}
    assert exported == {name: run["metrics"][name] for name in names}
    assert stack.query(f"lineside_run_step{selector}")[0][1] == run["step"]
    received = f"lineside_events_received_total{selector}"
    of_training = sum(
        count for kind, count in run["event_counts"].items() if kind not in OF_OTHER_PROCESSES
    )
    counts = run["event_counts"]
    wait_until(
        lambda: stack.query(f"{received} == {of_training}"),
        f"Prometheus has the {of_training} events of {counts}, not {stack.query(received)}",
    )
    assert stack.query(f"sum(lineside_events_lost_total{selector}) > 0") == []


def test_a_training_that_is_killed_is_reported_and_loses_nothing(stack: Stack) -> None:
    run_id = begin_demo(stack)
    trains_on(stack, run_id)
    docker("kill", "--signal", "KILL", stack.container("demo"))
    run = ended(stack, run_id)
    assert run["status"] in ("lost", "killed")
    assert_nothing_is_lost(run)

    def alerts() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stack.get(f"/api/alerts?run={run_id}")["items"]
        return found

    wait_until(alerts, "the watchdog opens an alert")
    assert {one["severity"] for one in alerts()} == {"critical"}
    fires = f'ALERTS{{alertname=~"LinesideRun(Lost|Killed)",run="{run_id}",alertstate="firing"}}'
    wait_until(lambda: stack.query(fires), "Prometheus fires as well", LONG)


def test_a_stop_of_everything_in_mid_training_saves_a_checkpoint_and_loses_nothing(
    stack: Stack, own: list[str]
) -> None:
    before = {one["id"] for one in stack.runs()}
    run_id = begin_demo(stack)
    trains_on(stack, run_id)
    stack.compose(*DEMO, "stop")
    codes = {name: stack.state(name)["State"]["ExitCode"] for name in [*own, "demo"]}
    assert codes == dict.fromkeys(codes, 0)
    stack.compose("up", "-d", "--wait", *stack.services())
    run = ended(stack, run_id)
    assert run["status"] in ("stopped", "interrupted")
    assert_nothing_is_lost(run)
    assert load_checkpoint(run["step"]).strip() == "True"
    assert before < {one["id"] for one in stack.runs()}
