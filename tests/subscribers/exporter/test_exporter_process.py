"""``lineside exporter`` as a process: a real training, Prometheus, kill -9, tokens."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.errors import RunNotFound
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.store.history.history import History
from lineside.store.history.records import Run
from lineside.subscribers.exporter.samples import FAMILIES
from lineside.subscribers.exporter.system import SYSTEM_FAMILIES
from tests.subscribers.conftest import ServiceProcess
from tests.subscribers.exporter.exporting import (
    OPENMETRICS,
    ExporterProcess,
    Samples,
    parse,
    parse_openmetrics,
    value,
)
from tests.subscribers.exporter.prometheus import Prometheus, check_metrics
from tests.subscribers.stopper.stopper_processes import RUN, Training
from tests.support.waiting import wait_until

DOCS = Path(__file__).parents[3] / "docs"
HOW_TO = DOCS / "how-to" / "prometheus.md"
SYSTEM_METRICS = DOCS / "reference" / "system-metrics.md"
COUNTER_SUFFIXES = ("_total", "_bucket", "_sum", "_count")


@pytest.fixture
def exporter(settings: Settings, broker: BrokerProcess) -> Iterator[ExporterProcess]:
    with ExporterProcess(settings) as process:
        yield process


def test_prometheus_scrapes_a_real_training_with_the_figures_of_the_store(
    settings: Settings,
    exporter: ExporterProcess,
    history: History,
    tmp_path: Path,
    require_program: Callable[[str], str],
) -> None:
    with ServiceProcess("recorder", settings):
        with Training(settings, tmp_path / "out", 8, (5.0, 4.0)) as training:
            training.wait_ended()
        run = wait_until(lambda: ended_run(history), "the run is recorded")
    exporter.wait_page()
    query = f'lineside_run_status{{status="{run.status}"}} == 1'
    with Prometheus(require_program("prometheus"), tmp_path / "prometheus", exporter.url) as server:
        [found] = wait_until(lambda: server.query(query), "the run has ended")
        assert found["metric"]["run"] == run.id
        assert found["metric"]["project"] == run.project
        assert run.ended_at is not None
        for name, expected in {
            "lineside_run_step": run.step,
            "lineside_run_max_steps": run.max_steps,
            "lineside_run_ended_timestamp_seconds": run.ended_at.timestamp(),
            "lineside_run_steps_total": 8,
            "lineside_run_step_seconds_count": 8,
            'lineside_run_metric{metric="eval_score"}': 4.0,
        }.items():
            [found] = server.query(name)
            assert float(found["value"][1]) == pytest.approx(expected), name
        assert not server.query('{__name__=~"lineside.*_created"}')
    check_metrics(require_program("promtool"), exporter.get()[1])


def test_every_query_of_the_how_to_returns_data_on_live_runs(
    exporter: ExporterProcess,
    broker: BrokerProcess,
    tmp_path: Path,
    require_program: Callable[[str], str],
) -> None:
    questions = dict(re.findall(r"^\| (.*) \| `(.*)` \|$", HOW_TO.read_text(), re.M))
    assert len(questions) >= 10
    exporter.wait_page()
    with (
        publishing(broker, bad=True),
        Prometheus(require_program("prometheus"), tmp_path / "prometheus", exporter.url) as server,
    ):
        for question, query in questions.items():
            text = query.replace("\\|", "|")
            wait_until(lambda text=text: server.query(text), question)  # type: ignore[misc]
        for family in SYSTEM_FAMILIES:
            assert server.query(f'{family.name}{{host="node"}}'), family.name
        check_metrics(require_program("promtool"), exporter.get()[1])


def test_a_page_has_the_same_samples_in_both_formats(
    exporter: ExporterProcess, broker: BrokerProcess
) -> None:
    publish(broker, "a1", range(1, 4))
    exporter.wait_page()
    wait_until(lambda: "lineside_run_step{" in exporter.get()[1])
    plain = without_own(parse(exporter.get()[1]))
    assert plain == without_own(parse_openmetrics(exporter.get(Accept=OPENMETRICS)[1]))
    assert {name for name, _ in plain} <= {
        f"{family}{suffix}" for family in FAMILIES for suffix in ("", *COUNTER_SUFFIXES)
    }


def test_no_counter_falls_while_the_exporter_is_killed_again_and_again(
    settings: Settings, broker: BrokerProcess
) -> None:
    before, seen = Samples(), 0
    with publishing(broker):
        for end in ("kill", "stop", "kill", "kill"):
            with ExporterProcess(settings) as exporter:
                for page in (exporter.wait_page(), wait_next_page(exporter)):
                    samples = parse(page)
                    for key in samples.keys() | before.keys():
                        name = key[0]
                        if name.startswith("lineside") and name.endswith(COUNTER_SUFFIXES):
                            assert samples[key] >= before.get(key, 0), key
                    before, seen = samples, seen + 1
                getattr(exporter, end)()
    assert seen == 8
    assert value(before, "lineside_run_nonfinite_total") > 0
    with ExporterProcess(settings) as exporter:
        exporter.wait_page()
        samples = parse(exporter.wait_page())
    steps = value(samples, "lineside_run_step")
    assert value(samples, "lineside_run_steps_total") == steps, "a step is counted once"


def test_a_page_is_compressed_for_who_takes_that(exporter: ExporterProcess) -> None:
    exporter.wait_page()
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{exporter.url}/metrics", headers={"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own address
        assert answer.headers["Content-Encoding"] == "gzip"


def test_health_names_what_is_wrong(
    settings: Settings, exporter: ExporterProcess, broker: BrokerProcess
) -> None:
    exporter.wait_page()
    assert exporter.get("/healthz")[0] == 200
    broker.kill()
    _, body = wait_until(lambda: found if (found := exporter.get("/healthz"))[0] == 503 else None)
    checks = json.loads(body)["checks"]
    assert [name for name, check in checks.items() if not check["ok"]] == ["broker"]
    assert exporter.get("/nothing")[0] == 404


def test_without_a_broker_there_is_no_page(settings: Settings) -> None:
    settings.home.mkdir()
    with ExporterProcess(settings) as exporter:
        wait_until(lambda: exporter.url)
        status, body = wait_until(lambda: found if (found := exporter.get())[0] else None)
        assert (status, body) == (503, "the broker does not answer\n")


def test_with_tokens_only_a_reader_gets_the_page(settings: Settings, broker: BrokerProcess) -> None:
    keyring = Keyring(keys_folder(settings.home))
    reader, writer = keyring.new_token("prom", ["read"]), keyring.new_token("ops", ["control"])
    with ExporterProcess(settings, "--tokens") as exporter:
        wait_until(lambda: exporter.url)
        assert exporter.get()[0] == 401
        assert exporter.get(Authorization="Bearer wrong")[0] == 401
        assert exporter.get(Authorization=f"Bearer {writer}")[0] == 403
        wait_until(lambda: exporter.get(Authorization=f"Bearer {reader}")[0] == 200)
        wait_until(lambda: exporter.get("/healthz")[0] == 200)
        keyring.revoke("prom")
        assert exporter.get(Authorization=f"Bearer {reader}")[0] == 401


def test_an_address_of_the_network_takes_a_token(settings: Settings) -> None:
    command = [sys.executable, "-m", "lineside.cli", "exporter", "--host", "0.0.0.0"]  # noqa: S104
    env = {"LINESIDE_HOME": str(settings.home)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "could read every run" in ended.stderr


def test_a_second_exporter_on_a_home_names_the_first(
    settings: Settings, exporter: ExporterProcess
) -> None:
    exporter.wait_started()
    command = [sys.executable, "-m", "lineside.cli", "exporter", "--port", "0"]
    env = {"LINESIDE_HOME": str(settings.home)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "an exporter runs on this home" in ended.stderr


@contextlib.contextmanager
def publishing(broker: BrokerProcess, *, bad: bool = False) -> Iterator[None]:
    """A run that trains; if ``bad``, with lost events, an idle machine and a failed run beside."""
    stop = threading.Event()

    def train() -> None:
        with Producer(broker.address, "run/rank0/a1") as producer:
            producer.emit("run_start", data={"name": "run"})
            producer.emit("train_begin", data={"state": {"max_steps": 1_000_000}})
            producer.emit("save", data={"checkpoint": "/out/checkpoint-0"})
            if bad:
                producer.skip()
            step = 0
            while not stop.is_set():
                producer.emit("step_begin", step=step)
                step += 1
                producer.emit("step_end", step=step)
                logs = {"loss": math.nan if step % 2 else 1.0, "eval/accuracy": 0.5}
                producer.emit("log", step=step, data={"logs": logs})
                producer.flush()
                time.sleep(0.002)

    if bad:
        with Producer(broker.address, "failed/rank0/a1") as failed:
            failed.emit("train_begin")
            failed.emit("train_error", data={"error": {"type": "ValueError", "message": "x"}})
            failed.flush()
        with Producer(broker.address, "run/sampler-node/s1") as sampler:
            names = re.findall(r"^\| `([a-z0-9]+/[\w/]+)` \|", SYSTEM_METRICS.read_text(), re.M)
            sampler.emit("metrics", data={"metrics": dict.fromkeys(names, 0.0)})
            sampler.flush()
    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        yield
    finally:
        stop.set()
        trainer.join()


def ended_run(history: History) -> Run | None:
    with contextlib.suppress(RunNotFound):
        run = history.run(RUN)
        return None if run.is_running else run
    return None


def publish(broker: BrokerProcess, attempt: str, steps: range) -> None:
    with Producer(broker.address, f"run/rank0/{attempt}") as producer:
        producer.emit("run_start", data={"name": "run"})
        producer.emit("train_begin")
        for step in steps:
            producer.emit("step_begin", step=step - 1)
            producer.emit("step_end", step=step)
            producer.emit("log", step=step, data={"logs": {"loss": 1.0 / step}})
        producer.flush()


def without_own(samples: Samples) -> Samples:
    """Without what changes from one rendering to the next."""
    changing = ("process_", "lineside_journal", "lineside_subscriber_lag")
    return {key: found for key, found in samples.items() if not key[0].startswith(changing)}


def wait_next_page(exporter: ExporterProcess) -> str:
    """A page with more steps than the present one."""
    steps = steps_of(exporter.get()[1])
    return wait_until(lambda: page if steps_of(page := exporter.get()[1]) > steps else None)


def steps_of(page: str) -> float:
    return sum(
        found for (name, _), found in parse(page).items() if name == "lineside_run_steps_total"
    )
