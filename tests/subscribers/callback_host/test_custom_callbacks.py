"""A company's own callbacks, from ``custom_callbacks`` and in processes of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from transformers import TrainerCallback

from lineside.bus.protocol.events import Event
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from lineside.emitter import LinesideCallback, load_callbacks_from_config
from tests.cli.homes import Home
from tests.emitter.ranks.conftest import Job
from tests.emitter.streams import data_of
from tests.subscribers.callback_host.host_process import HostProcess
from tests.support.tiny_trainer import HookLog, trainer
from tests.support.waiting import DEADLINE

EXAMPLES = Path(__file__).parents[3] / "examples" / "custom_callbacks.py"
EARLY_STOPPING = {
    "name": f"{EXAMPLES}:SmartEarlyStoppingCallback",
    "args": {"patience": 2, "min_delta": 100.0},
}
Post = tuple[str, int, dict[str, float]]


class MonitoringServer:
    """The company's endpoint; refuses other keys than ``secret``."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_allowed = self.headers["Authorization"] == "Bearer secret"
                if is_allowed:
                    posts.append((self.path, message["step"], message["metrics"]))
                self.send_response(200 if is_allowed else 401)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def of(self, path: str) -> list[tuple[int, dict[str, float]]]:
        return [(step, metrics) for where, step, metrics in self.posts if where == path]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[MonitoringServer]:
    made = MonitoringServer()
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    made.close()


class Pace(TrainerCallback):
    """Lets a step take a hundredth of a second, and fails one that is not stopped in time."""

    def __init__(self) -> None:
        self.until = time.monotonic() + DEADLINE

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert time.monotonic() < self.until, "the training was not stopped"
        time.sleep(0.01)


def test_callbacks_in_yaml_post_evaluate_and_stop_as_they_would_inside_the_training(
    home: Home, server: MonitoringServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lineside.yaml"
    monitoring = f"{EXAMPLES}:CompanyMonitoringCallback"
    entries = [
        {
            "name": monitoring,
            "args": {
                "endpoint": f"{server.url}/hosted",
                "api_key": "${COMPANY_KEY}",
                "interval": 7,
            },
        },
        {"name": f"{EXAMPLES}:LossDropEvaluationCallback", "args": {"drop": 0.01}},
        EARLY_STOPPING,
    ]
    file.write_text(json.dumps({"custom_callbacks": entries}))  # JSON is YAML
    monkeypatch.setenv("COMPANY_KEY", "secret")
    home.up("--config", str(file))

    monkeypatch.setenv("LINESIDE_HOME", str(home.path))
    inside = {"endpoint": f"{server.url}/inside", "api_key": "${COMPANY_KEY}", "interval": 7}
    [twin] = load_callbacks_from_config([{"name": monitoring, "args": inside}])
    hook_log = HookLog()
    callbacks = [LinesideCallback(run_id="guide"), twin, hook_log, Pace()]
    made = trainer(tmp_path / "out", *callbacks, max_steps=1_000_000, learning_rate=1e-3)
    made.train()
    evaluations = [note["step"] for note in hook_log.seen if note["kind"] == "evaluate"]
    assert len(evaluations) >= 3
    assert made.state.global_step >= evaluations[2]

    stopped = _applied(home.path, "stop")
    assert stopped.step == made.state.global_step
    assert "SmartEarlyStoppingCallback" in str(data_of(stopped))
    until = time.monotonic() + DEADLINE
    while len(server.of("/hosted")) < len(server.of("/inside")):
        assert time.monotonic() < until, server.posts
        time.sleep(0.05)
    assert server.of("/hosted") == server.of("/inside")
    assert [step for step, metrics in server.of("/hosted") if "eval_loss" in metrics] == evaluations


def _applied(home: Path, op: str) -> Event:
    """The one command ``op`` that the training applied."""

    def found(events: list[Event]) -> list[Event]:
        applied = [event for event in events if event.kind == "control_applied"]
        return [event for event in applied if data_of(event)["op"] == op]

    events = read_all(f"ipc://{home}/bus.sock", until=lambda events: bool(found(events)))
    [event] = found(events)
    return event


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    with made.broker:
        yield made
        made.close()


def test_a_hosted_early_stopping_stops_two_ranks_at_one_step(job: Job, tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = Settings(home, job.broker.address, home / "spool", "")
    home.mkdir()
    with HostProcess(settings, [EARLY_STOPPING]) as host:
        host.wait_started()
        job.start(2, eval_steps=20)
        [one, other] = job.end()
    assert (one["steps"], one["weights"]) == (other["steps"], other["weights"])
    log = job.applied_commands()
    assert [(op, step) for _, op, step, _ in log["control"]] == [("stop", one["steps"])]
    assert log["rank1"] == log["control"]
