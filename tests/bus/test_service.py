"""The life of a process: startup, main loop, shutdown."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lineside.bus.errors import BusError
from lineside.bus.service import SUPERVISOR_PID, Service, configure_logging


class RecordingService(Service):
    """Ends itself by a signal in its third turn."""

    name = "counting"

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._number = number

    def startup(self) -> None:
        self.calls.append("startup")

    def run_once(self) -> None:
        self.calls.append("turn")
        if self._number and self.calls.count("turn") == 3:
            os.kill(os.getpid(), self._number)

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_turn(number: int) -> None:
    service = RecordingService(number)
    service.serve()
    assert service.calls == ["startup", "turn", "turn", "turn", "shutdown"]


def test_it_ends_when_its_supervisor_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SUPERVISOR_PID, str(os.getpid()))  # which is not its own parent
    service = RecordingService()
    with caplog.at_level(logging.INFO):
        service.serve()
    assert service.calls == ["startup", "turn", "shutdown"]
    assert "the supervisor is gone" in caplog.text


def test_it_goes_on_under_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUPERVISOR_PID, str(os.getppid()))
    service = RecordingService(signal.SIGTERM)
    service.serve()
    assert service.calls.count("turn") == 3


def test_it_cleans_up_after_a_failed_start() -> None:
    class Failing(RecordingService):
        def startup(self) -> None:
            raise BusError("no")

    service = Failing()
    with pytest.raises(BusError):
        service.serve()
    assert service.calls == ["shutdown"]


def test_a_bare_service_has_nothing_to_do() -> None:
    service = Service()
    service.startup()
    with pytest.raises(NotImplementedError):
        service.run_once()
    service.shutdown()


@pytest.mark.parametrize(("hard", "is_warned"), [(300, True), (2000, False)])
def test_the_file_limit_is_raised_and_a_low_one_is_logged(hard: int, is_warned: bool) -> None:
    code = (
        "import resource as r; from lineside.bus.sockets import raise_file_limit\n"
        f"r.setrlimit(r.RLIMIT_NOFILE, (200, {hard})); raise_file_limit()\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{hard}\n"
    assert ("may open only 300 files" in done.stderr) is is_warned


def test_log_lines_have_a_time_and_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []
    try:
        configure_logging()
        logging.getLogger("lineside").info("a word")
        assert " INFO a word" in capsys.readouterr().err
        # Foreign text makes no lines of its own, and has no effect on a terminal.
        logging.getLogger("lineside").info("refused %s", "/x\n2026 INFO let in\x1b[31m\u202e")
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith(r"refused /x\n2026 INFO let in\x1b[31m\u202e")
    finally:
        root.handlers, root.level = before


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups by session here")
def test_a_lower_priority_counts_beside_other_sessions() -> None:
    code = (
        "import os; from lineside.bus.service import lower_priority; lower_priority();"
        "print(os.nice(0), open('/proc/self/autogroup').read())"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.read().split()[::3] == [b"10", b"10"]
