"""``lineside subscriber`` as a process: it counts exactly, whichever process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "subscriber.md"
ATTEMPT = "20261121T000000-0000"


class SubscriberProcess:
    """``lineside subscriber`` in ``folder``, killed and started again at will."""

    def __init__(self, settings: Settings, folder: Path, *arguments: str) -> None:
        self.log = settings.home / "subscriber.log"
        self._folder = folder
        # With -P, as a console script: the current folder is not on the import path.
        no_folder = ["-P"] if sys.version_info >= (3, 11) else []
        self._command = [sys.executable, *no_folder, "-m", "lineside.cli", "subscriber", *arguments]
        self._environment = {
            **os.environ,
            "LINESIDE_HOME": str(settings.home),
            SUPERVISOR_PID: str(os.getpid()),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def __enter__(self) -> SubscriberProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None:
            self.kill()
        print(self.log.read_text()[-4000:])


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    for block in re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text(), re.S | re.M):
        name = block.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(block)
    return folder


@pytest.fixture
def training(broker: BrokerProcess) -> Iterator[Producer]:
    with Producer(broker.address, f"run/rank0/{ATTEMPT}") as producer:
        producer.emit("run_start", data={"name": "run"})
        yield producer


def log_steps(training: Producer, steps: range) -> None:
    for step in steps:
        training.emit("log", step=step, data={"logs": {"loss": 9.0}})
    training.flush(30)


def tutorial_command() -> Sequence[str]:
    """The arguments that the tutorial gives."""
    [line] = re.findall(r"^lineside subscriber (.*)$", TUTORIAL.read_text(), re.M)
    return str(line).split()


def test_the_tutorials_test_passes(tutorial: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_loss_watch.py"],
        cwd=tutorial,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.fault
def test_the_tutorials_subscriber_counts_exactly_through_kills_of_itself_and_of_the_broker(
    settings: Settings, broker: BrokerProcess, training: Producer, tutorial: Path
) -> None:
    counts = tutorial / "counts"
    counts.mkdir()
    shown = counts / "run"

    def counted() -> int:
        return int(shown.read_text() or 0) if shown.exists() else 0

    with SubscriberProcess(settings, tutorial, *tutorial_command()) as process:
        for round_ in range(4):
            log_steps(training, range(round_ * 100, round_ * 100 + 100))
            if round_ == 1:
                broker.kill()
                broker.start()
            wait_until(lambda r=round_: counted() > r * 100 + 10, "some are counted")  # type: ignore[misc]
            process.kill()
            process.start()
        log_steps(training, range(400, 500))
        wait_until(lambda: counted() >= 500, "all are counted")
        assert process.kill(signal.SIGTERM) == 0
    assert counted() == 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss_watch"], "expected MODULE:CLASS"),
        (["loss_watches:LossWatch"], "there is no module 'loss_watches'"),
        (["loss_watch:Loss"], "Loss is not there"),
        (["loss_watch:Path"], "Path is no subclass of lineside's Subscriber"),
        (["loss_watch:LossWatch"], "option folder of LossWatch is missing: give it as -o folder="),
        (["loss_watch:LossWatch", "-o", "folder"], "-o folder: expected key=value"),
        (["loss_watch:LossWatch", "-o", "url=x"], "LossWatch has the options folder, limit"),
        (
            ["loss_watch:LossWatch", "-o", "folder=.", "-o", "limit=high"],
            "-o limit=high: expected a number",
        ),
        (
            ["loss_watch:LossWatch", "-o", "folder=.", "--on-error", "ignore"],
            "on_error 'ignore': expected one of retry, skip, stop",
        ),
        (
            ["loss_watch:LossWatch", "-o", "folder=.", "--from", "now"],
            "from 'now': expected start or live",
        ),
        (["typo:Typo"], "Typo.on_logs in"),
    ],
)
def test_what_cannot_be_started_is_one_sentence_and_exit_code_2(
    settings: Settings, tutorial: Path, arguments: list[str], message: str
) -> None:
    (tutorial / "typo.py").write_text(
        "from lineside.subscribers import Subscriber\n"
        "class Typo(Subscriber):\n"
        "    def on_logs(self, run, event): ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "lineside.cli", "subscriber", *arguments],
        cwd=tutorial,
        env={**os.environ, "LINESIDE_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
