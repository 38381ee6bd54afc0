"""More hosted trackers against their in-process twins: folders, printing runs and stand-ins."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lineside.subscribers.callback_host.worker_spec import callback_folder
from tests.support.waiting import wait_until
from tests.trackers import offline_stores as stores
from tests.trackers.cases import Case
from tests.trackers.comparison import Record, differences, result
from tests.trackers.harness import RUN, Twins
from tests.trackers.offline_cases import OFFLINE_CASES
from tests.trackers.table import ONCE, RESULT, Table

pytestmark = pytest.mark.timeout(1200)

START_SECONDS = 300.0
"""For a training or callbacks to begin, on a machine with many of them."""
VALUES = ("messages.json", "metrics.jsonl", "*.swanlab")
"""The files into which Comet, ClearML and SwanLab write values."""
STAND_INS = Path(__file__).with_name("stand_ins")
IN_PROCESS = [*(case.name for case in OFFLINE_CASES), "azureml", "neptune"]
HOSTED = [*IN_PROCESS, "kubeflow"]  # in-process, the controller's variable loads it
KILLED = [case for case in OFFLINE_CASES if case.name not in ("codecarbon", "dagshub")]
WITH_STATUS = [case for case in KILLED if case.name != "clearml"]  # its sessions have none


class Controller(ThreadingHTTPServer):
    """Kubeflow's controller: keeps the reports of each path in a file of that path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Reports)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Reports(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        report = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == "Bearer token of the pod"
        with Path(self.path).open("ab") as file:
            file.write(report + b"\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Pair(Twins):
    """Twins of ``names`` in one training: in-process below ``left``, hosted below ``right``."""

    def __init__(self, folder: Path, names: list[str], controller: str = "") -> None:
        super().__init__(folder)
        self.names, self.controller = names, controller
        self.left, self.right = folder / "in-process", folder / "hosted"
        for one in (self.left, self.right):
            (one / "owner").mkdir(parents=True)
        (folder / "token").write_text("token of the pod\n")

    def variables(self, folder: Path) -> Mapping[str, str]:
        values = {
            "KUBEFLOW_TRAINER_SERVER_URL": f"{self.controller}{folder}/kubeflow",
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.folder / "token"),
            "NEPTUNE_CALLS": str(folder / "neptune"),
            "AZUREML_CALLS": str(folder / "azureml"),
            "AZUREML_RUN_ID": "job-1",
        }
        for case in OFFLINE_CASES:
            values.update(case.variables(folder))
        return values

    def start(self) -> None:
        environment = dict(self.variables(self.right))
        self.start_host(
            [{"name": name, "id": name, "environment": environment} for name in self.names]
        )

    def losses(self) -> dict[Path, int]:
        """How often each file with values of a hosted callback names a loss."""
        folders = [self.right / name for name in self.names]
        folders += [callback_folder(self.home, name, RUN) / "work" for name in self.names]
        files = [f for folder in folders for pattern in VALUES for f in folder.rglob(pattern)]
        return {file: file.read_bytes().count(b"loss") for file in files}

    def wait_all_logged(self, more: int) -> None:
        """Wait until each callback has logged ``more`` losses into one of its files."""
        before = self.losses()

        def have_logged() -> bool:
            grown = [
                file for file, count in self.losses().items() if count >= before.get(file, 0) + more
            ]
            return all(any(name in file.parts for file in grown) for name in self.names)

        wait_until(have_logged, "all callbacks have logged", START_SECONDS)

    def records(self, case: Case) -> tuple[Record, Record]:
        return case.read(self.left), case.read(self.right)


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    with Controller() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, controller: Controller) -> Iterator[Pair]:
    """A training with accumulation, evaluations, saves, and more of both after it."""
    with (
        pytest.MonkeyPatch.context() as patch,
        Pair(tmp_path_factory.mktemp("whole"), HOSTED, controller.address) as pair,
    ):
        patch.setenv("PYTHONPATH", str(STAND_INS), prepend=os.pathsep)
        pair.start()
        pair.train("whole", IN_PROCESS, pair.variables(pair.left))
        pair.wait_hosted(*HOSTED)
        yield pair


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A training during which the processes of all callbacks are killed three times, at work."""
    names = [case.name for case in KILLED]
    with Pair(tmp_path_factory.mktemp("killed"), names) as pair:
        pair.start()
        training = pair.start_training("open_ended", names, pair.variables(pair.left))
        for _ in range(3):
            pair.wait_all_logged(3)
            assert pair.kill_workers() == len(names)
        (pair.checkpoints.parent / "stop").touch()
        assert training.wait() == 0, training.log_text()[-6000:]
        pair.wait_hosted(*names)
        yield pair


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A run whose first attempt was stopped after 8 steps, and whose second raised in step 3."""
    names = [case.name for case in KILLED]
    with Pair(tmp_path_factory.mktemp("failed"), names) as pair:
        pair.start()
        pair.train("half", variables=pair.variables(pair.left))
        pair.train("failing", variables=pair.variables(pair.left), exit_code=1)
        pair.wait_hosted(*names, attempts=2)
        yield pair


@pytest.mark.parametrize("case", OFFLINE_CASES, ids=lambda case: case.name)
def test_a_hosted_tracker_has_what_it_would_have_in_process(
    case: Case, whole: Pair, table: Table
) -> None:
    in_process, hosted = whole.records(case)
    assert in_process.points
    found = differences(in_process, hosted)
    table.check(case.name, RESULT, result(found, case.explained), case.package)


@pytest.mark.parametrize("case", KILLED, ids=lambda case: case.name)
def test_after_kills_the_tracker_has_one_run_with_each_value_once(
    case: Case, killed: Pair, table: Table
) -> None:
    in_process, hosted = killed.records(case)
    assert len(in_process.points[case.loss]) > 9  # three before each of three kills
    assert hosted.details["runs"] == 1
    found = differences(in_process, hosted)
    assert result(found, dict.fromkeys(case.explained, "")) == "equal"
    table.check(case.name, ONCE, "yes", case.package)


@pytest.mark.parametrize("case", KILLED, ids=lambda case: case.name)
def test_a_later_attempt_goes_on_in_the_same_run_of_the_tracker(case: Case, failed: Pair) -> None:
    hosted = case.read(failed.right)
    assert hosted.details["runs"] == 1
    assert [step for step, _ in hosted.points[case.loss]] == [*range(1, 9), 1, 2]


@pytest.mark.parametrize(
    "case", [case for case in KILLED if case.name != "clearml"], ids=lambda case: case.name
)
def test_a_run_that_failed_has_its_error_in_the_tracker(case: Case, failed: Pair) -> None:
    hosted = case.read(failed.right)
    assert hosted.details["error"] == "RuntimeError: out of tokens"
    assert hosted.details.get("status", "RUN_STATE_CRASHED") == "RUN_STATE_CRASHED"


def test_azure_gets_the_metrics_of_the_run(whole: Pair, table: Table) -> None:
    in_process, hosted = (stores.calls(one / "azureml") for one in (whole.left, whole.right))
    assert in_process.points
    found = differences(in_process, hosted)
    table.check("azureml", RESULT, result(found, {}), "azureml-core")


def test_kubeflow_gets_the_first_and_the_last_report(whole: Pair, table: Table) -> None:
    in_process, hosted = (stores.requests(one / "kubeflow") for one in (whole.left, whole.right))
    assert [value for _, value in in_process.points["progressPercentage"]] == [0, 100]
    found = differences(in_process, hosted)
    table.check("kubeflow", RESULT, result(found, {}), "transformers")


def test_neptune_gets_the_same_calls(whole: Pair, table: Table) -> None:
    in_process, hosted = (stores.calls(one / "neptune") for one in (whole.left, whole.right))
    assert in_process.points
    found = differences(in_process, hosted)
    table.check("neptune", RESULT, result(found, {}), "neptune")
