"""The dashboards of Grafana: current, valid, and with data for each query on a live run."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.exporter.families import HISTOGRAM, SUMMARY
from lineside.subscribers.exporter.samples import FAMILIES, PHASES, STATUSES
from tests.deploy.monitoring import Monitoring
from tests.deploy.shipped import DEPLOY, DOCS, metrics_of
from tests.subscribers.exporter.exporting import ExporterProcess
from tests.support.forked import ForkedScript, run_lineside
from tests.support.waiting import DEADLINE, wait_until

FOLDER = DEPLOY / "grafana" / "dashboards"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
RUN, PROJECT = "watched", "tests"
VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "1m",
    "$run": RUN,
    "$project": ".*",
    "$metric": ".*",
}
"""What Grafana puts in the place of its variables; those of several values fit any text."""


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Every query of every dashboard, filled in, by where it stands."""
    found = {}
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                where = f"{name}: panel {panel['id']} {panel['title']!r} {target['refId']}"
                found[where] = target["expr"]
        for mark in dashboard["annotations"].get("list", ()):
            found[f"{name}: annotation {mark['name']}"] = mark["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                text = variable["query"]["query"]
                inner = re.fullmatch(r"label_values\((.*), \w+\)|query_result\((.*)\)", text)
                assert inner is not None, text
                found[f"{name}: variable {variable['name']}"] = inner[1] or inner[2]
    return {where: fill_in(expr) for where, expr in found.items()}


def fill_in(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def test_the_dashboards_are_those_that_the_code_makes() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("grafana-foundation-sdk needs Python 3.11")
    from deploy.grafana.source.__main__ import rendered

    for name, text in rendered().items():
        assert (FOLDER / name).read_text() == text, f"{name} is old: run `make dashboards`"
    assert set(rendered()) == set(DASHBOARDS)


def test_the_dashboards_fit_the_types_of_grafana() -> None:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    for name, dashboard in DASHBOARDS.items():
        again = json.loads(JSONEncoder().encode(models.Dashboard.from_json(dashboard)))
        for mark in dashboard["annotations"].get("list", ()):
            # Of the data source, and so not in the types.
            assert {mark.pop(key) for key in ("step", "titleFormat", "textFormat")}
        assert again == dashboard, name


def test_panels_have_a_title_a_place_of_their_own_and_a_number() -> None:
    for name, dashboard in DASHBOARDS.items():
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers), name
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert panel["title"], panel
            assert place["x"] + place["w"] <= 24, panel["title"]
            columns = range(place["x"], place["x"] + place["w"])
            lines = range(place["y"], place["y"] + place["h"])
            for cell in itertools.product(columns, lines):
                assert cell not in taken, (name, panel["title"], taken[cell])
                taken[cell] = panel["title"]


def test_the_dashboards_show_every_family_of_the_exporter_and_every_state() -> None:
    shown = set().union(*(metrics_of(query) for query in queries().values()))
    suffix = re.compile(r"_(sum|count|bucket)$")
    missing = set(FAMILIES) - {suffix.sub("", name) for name in shown} - shown
    # Step and waits are shown by what is recorded of them.
    assert missing == {"lineside_run_data_wait_seconds"}
    text = (FOLDER / "run.json").read_text()
    for state in (*STATUSES, *PHASES):
        assert f'"text": "{state}"' in text


@pytest.fixture
def token(settings: Settings) -> str:
    """One that may read, of the home."""
    return Keyring(keys_folder(settings.home)).new_token("prometheus", ["read"])


@pytest.fixture
def training(settings: Settings, broker: BrokerProcess, tmp_path: Path) -> Iterator[None]:
    """A real training that goes on until the test ends."""
    process = ForkedScript(
        [Path(__file__).with_name("watched_training.py"), tmp_path / "out"],
        env={
            **os.environ,
            "LINESIDE_HOME": str(settings.home),
            "LINESIDE_RUN_ID": RUN,
            "LINESIDE_PROJECT": PROJECT,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield
    process.kill()
    print(process.communicate()[1])


@pytest.fixture
def faults(broker: BrokerProcess) -> Iterator[Callable[[], None]]:
    """Publishes beside the training what this machine has not, and what went wrong elsewhere."""
    address = broker.address
    names = re.findall(
        r"^\| `([a-z0-9]+/[\w/]+)` \|", (DOCS / "reference" / "system-metrics.md").read_text(), re.M
    )
    with (
        Producer(address, f"{RUN}/sampler-node/s1") as sampler,
        Producer(address, f"{RUN}/probe/p1") as probe,
        Producer(address, f"{RUN}/stopper/s1") as stopper,
        Producer(address, f"{RUN}/slack/s1") as slack,
        Producer(address, f"{RUN}/watchdog/w1") as watchdog,
        Producer(address, f"{RUN}/archiver/r1") as archiver,
        Producer(address, "failed/rank0/a1") as failed,
    ):
        failed.emit("run_start", data={"name": "failed"})
        failed.emit("train_begin")
        failed.emit("train_error", data={"error": {"type": "ValueError", "message": "x"}})
        failed.emit("run_end", data={"how": "exception"})
        stopper.emit("alert", data={"rule": "patience"})
        alert = {"id": "a1", "rule": "gpu_idle", "state": "open", "severity": "warning"}
        watchdog.emit("alert", data=alert)
        for step, state in enumerate(("waiting", "archived", "evicted")):
            one = {"checkpoint": f"/out/checkpoint-{step}", "attempt": "a1", "step": step}
            archiver.emit("checkpoint_state", data={**one, "state": state, "bytes": 8})
        slack.emit("subscriber_error", data={"subscriber": "slack", "action": "skipped"})

        def publish() -> None:
            sampler.emit("metrics", data={"metrics": dict.fromkeys(names, 1.0)})
            probe.emit("metrics", data={"metrics": {"loss": math.nan}})
            for producer in (sampler, probe, stopper, slack, watchdog, archiver, failed):
                producer.flush()

        publish()
        yield publish


@pytest.mark.long
def test_every_query_and_every_metric_of_the_docs_returns_data_on_a_live_run(
    settings: Settings,
    engine: Engine,
    token: str,
    training: None,
    faults: Callable[[], None],
    tmp_path: Path,
    require_program: Callable[[str], str],
) -> None:
    reference = (DOCS / "reference" / "metrics.md").read_text()
    suffixes = {HISTOGRAM: "_bucket", SUMMARY: "_count"}
    wanted = {
        f"the reference: {name}": name + suffixes.get(kind, "")
        for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", reference, re.M)
    }
    wanted |= queries()
    with ExporterProcess(settings, "--tokens") as exporter:
        wait_until(lambda: exporter.url, "the exporter listens")
        folder = tmp_path / "monitoring"
        with Monitoring(require_program, folder, exporter.url, 15, token) as monitoring:
            server = monitoring.prometheus
            wait_until(lambda: server.query(f'lineside_run_best_step{{run="{RUN}"}}'), "a run")
            environment = {**os.environ, "LINESIDE_HOME": str(settings.home)}
            command = run_lineside(
                "log", RUN, "--ahead", "--no-wait", env=environment, timeout=DEADLINE
            )
            assert command.returncode == 0, command.stderr

            def have_data() -> bool:
                faults()
                for where in [where for where, query in wanted.items() if server.query(query)]:
                    del wanted[where]
                return not wanted

            with contextlib.suppress(TimeoutError):
                wait_until(have_data)
            assert not wanted
