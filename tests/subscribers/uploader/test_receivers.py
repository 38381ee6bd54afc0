"""Batches in real receivers: VictoriaMetrics, Prometheus, and the one of the how-to."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import subprocess
import threading
import time
import types
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.subscribers.uploader.options import ReceiverOptions, SinkName
from lineside.subscribers.uploader.sinks.registry import make_sink
from lineside.subscribers.uploader.sinks.sink import Refused
from tests.subscribers.exporter.prometheus import Prometheus, free_address
from tests.subscribers.kit import ATTEMPT, train
from tests.subscribers.uploader.kit import batch, uploading
from tests.support.waiting import wait_until

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "upload-metrics.md"
LOGS = [{"loss": 0.5, "eval/f 1": 1.0}, {"loss": 0.25}, {"loss": math.nan}]


@pytest.fixture
def victoria(require_program: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """The address of a VictoriaMetrics."""
    address = free_address()
    command = [
        require_program("victoria-metrics"),
        f"-storageDataPath={tmp_path / 'victoria'}",
        f"-httpListenAddr={address}",
        "-retentionPeriod=10y",
        "-dedup.minScrapeInterval=1ms",  # without it, both of two equal samples are stored
    ]
    log = tmp_path / "victoria.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: _get(f"http://{address}/health"), "VictoriaMetrics")
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()
        print(log.read_text()[-2000:])


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - this machine's
            return str(answer.read().decode())
    except OSError:
        return ""


def exported(address: str) -> list[dict[str, Any]]:
    """The series that are stored, with all their samples."""
    _get(f"{address}/internal/force_flush")
    match = urllib.parse.urlencode({"match[]": '{__name__=~"lineside.*"}'})
    return [json.loads(line) for line in _get(f"{address}/api/v1/export?{match}").splitlines()]


@pytest.mark.parametrize(
    ("sink", "path"), [("influxdb", "write"), ("remote-write", "api/v1/write")]
)
def test_points_of_forty_days_ago_that_come_twice_are_there_once(
    victoria: str, sink: SinkName, path: str
) -> None:
    begin = round(time.time()) - 40 * 86_400.0
    sender = make_sink(ReceiverOptions(sink, f"{victoria}/{path}"))
    for _ in range(2):
        sender.send(batch(*LOGS, begin=begin))
    wait_until(lambda: len(exported(victoria)) == 3, "three series")
    found = {}
    for series in exported(victoria):
        labels = series["metric"]
        assert (labels["run"], labels["name"], labels["project"]) == ("run-1", "first run", "p")
        name = labels.get("metric") or labels["__name__"].removeprefix("lineside_")
        samples = zip(series["timestamps"], series["values"], strict=True)
        found[name] = [(at / 1000 - begin, value) for at, value in samples if value is not None]
    steps = found.pop("step", None) or found.pop("run_step", None) or found.pop("lineside_run_step")
    assert steps[:2] == [(0, 0), (1, 10)]
    assert found == {"loss": [(0, 0.5), (1, 0.25)], "eval/f 1": [(0, 1)]}


def test_prometheus_takes_new_samples_and_refuses_old_ones(
    require_program: Callable[[str], str], tmp_path: Path
) -> None:
    program, option = require_program("prometheus"), "--web.enable-remote-write-receiver"
    with Prometheus(program, tmp_path / "p", "127.0.0.1:1", "{}", option) as server:
        wait_until(lambda: _get(f"http://{server.address}/-/ready"), "Prometheus")
        sender = make_sink(ReceiverOptions("remote-write", f"http://{server.address}/api/v1/write"))
        now = time.time()
        sender.send(batch({"loss": 0.5}, {"loss": 0.25}, begin=now - 5))
        query = 'lineside_run_metric{metric="loss",run="run-1",producer="rank0"}'
        wait_until(lambda: server.query(query), "the series")
        assert server.query(query)[0]["value"][1] == "0.25"
        for begin in (now - 30, now - 5):
            with pytest.raises(Refused, match="out of order"):
                sender.send(batch({"loss": 0.5}, {"loss": 0.25}, begin=begin))
        with pytest.raises(Refused, match="out of bounds"):
            sender.send(batch({"loss": 1}, begin=now - 10 * 86_400))


def test_the_receiver_of_the_how_to_has_each_point_once(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", HOW_TO.read_text(), re.S | re.M)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("receiver")
    monkeypatch.setitem(__import__("sys").modules, "receiver", module)
    exec(compile(code, "receiver.py", "exec"), module.__dict__)  # noqa: S102 - our own page
    config = uvicorn.Config(module.app, port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "uvicorn")
    port = server.servers[0].sockets[0].getsockname()[1]
    options = ReceiverOptions("http", f"http://127.0.0.1:{port}/metrics", key="my-key", gzip=False)
    train(broker.address, "run", range(20))
    try:
        with uploading(settings, "", options, batch=5):
            wait_until(lambda: len(rows(tmp_path)) == 20, "all points")
    finally:
        server.should_exit = True
        thread.join()
        module.db.close()
    stream, seq, point = rows(tmp_path)[0]
    assert (stream, seq) == (f"run/rank0/{ATTEMPT}", 2)
    assert json.loads(point)["values"] == {"loss": 0}


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "metrics.db") as db:
        found = db.execute("SELECT * FROM points ORDER BY rowid").fetchall()
    db.close()
    return found
