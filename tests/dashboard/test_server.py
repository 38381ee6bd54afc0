from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from lineside.bus.auth.listener import address, listen
from lineside.bus.client.producer import Producer
from lineside.bus.client.reader import Reader
from lineside.bus.errors import AddressInUse, MissingExtra, UsageError
from lineside.bus.protocol.messages import START
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.testing import BrokerProcess
from lineside.dashboard.backend import transit_reader
from lineside.dashboard.backend.health import BEHIND_SECONDS, recorder_check
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.backend.transit_reader import TransitReader
from lineside.dashboard.http import static_files
from lineside.dashboard.server import serve
from lineside.dashboard.transit import RecorderLag
from tests.dashboard.conftest import Harness
from tests.support.forked import ForkedCommand
from tests.support.waiting import DEADLINE


@contextmanager
def process(home: Path, *options: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """``lineside dashboard``, forked; ended by its pid."""
    started = ForkedCommand(
        [sys.executable, "-m", "lineside.cli", "dashboard", *options],
        env={**os.environ, "LINESIDE_HOME": str(home), **more},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(DEADLINE)
        assert started.stderr is not None
        started.stderr.close()


def logged_url(started: subprocess.Popen[str]) -> str:
    """The address it logs."""
    assert started.stderr is not None
    line = started.stderr.readline()
    return line.split("dashboard: ")[1].split(",")[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_dashboard_serves_without_a_store_and_ends_cleanly(
    tmp_path: Path, number: signal.Signals
) -> None:
    with process(tmp_path, "--port", "0") as started:
        url = logged_url(started)
        assert httpx.get(f"{url}/healthz", timeout=DEADLINE).json() == {"ok": True}
        assert httpx.get(f"{url}/readyz", timeout=DEADLINE).status_code == 503
        started.send_signal(number)
        assert started.wait(DEADLINE) == 0
        assert started.stderr is not None
        assert "Traceback" not in started.stderr.read()


def test_an_open_page_does_not_delay_the_shutdown(harness: Harness) -> None:
    with process(harness.settings.home, "--port", "0") as started:
        url = logged_url(started)
        with httpx.stream("GET", f"{url}/api/live", timeout=DEADLINE) as answer:
            text = answer.iter_text()
            assert "hello" in next(text)
            started.terminate()
            assert list(text) == []
        assert started.wait(DEADLINE) == 0


def test_the_dashboard_ends_with_its_supervisor(harness: Harness) -> None:
    gone = {SUPERVISOR_PID: "1"}
    with process(harness.settings.home, "--port", "0", **gone) as started:
        assert started.wait(DEADLINE) == 0


def test_a_port_in_use_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        with process(tmp_path, "--port", port) as started:
            assert started.wait(DEADLINE) == 1
            assert started.stderr is not None
            message = started.stderr.read()
    assert f"127.0.0.1:{port} is already in use" in message
    assert "Traceback" not in message


def test_off_loopback_without_a_token_the_exit_code_is_2(tmp_path: Path) -> None:
    with process(tmp_path, "--host", "0.0.0.0", "--port", "0") as started:  # noqa: S104
        assert started.wait(DEADLINE) == 2
        assert started.stderr is not None
        assert "not this machine's loopback address" in started.stderr.read()


def test_unusable_addresses_are_refused_with_a_reason() -> None:
    with listen("localhost", 0) as taken, pytest.raises(AddressInUse):
        listen("localhost", taken.getsockname()[1])
    for host, port in (("no such host", 1), ("127.0.0.1", 70000), ("8.8.8.8", 0), ("x" * 99, 0)):
        with pytest.raises(UsageError, match=r"cannot be used|loopback"):
            listen(host, port)


def test_an_ipv6_address_is_written_in_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except UsageError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert address(listener).startswith("http://[::1]:")


def test_a_port_below_1024_without_permission_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        listen("127.0.0.1", 80)


def test_without_plotly_the_error_names_the_extra_to_install(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_files, "PLOTLY", "not-there.js")
    with pytest.raises(MissingExtra, match=r"pip install 'lineside\[server\]'"):
        serve(harness.settings, port=0)


def test_the_lag_of_a_recorder_is_known_in_events_and_seconds(harness: Harness) -> None:
    now = 0.0
    writer, broker_address = harness.feeder.writer, harness.settings.broker
    transit = TransitReader(
        StoreAccess("", harness.history, writer), broker_address, clock=lambda: now
    )
    lag = transit.recorder_lag()
    assert (lag.is_known, lag.is_behind, recorder_check(lag).ok) == (False, False, True)
    assert f"no broker answers at {broker_address}" in str(lag)
    with BrokerProcess(harness.settings.home) as broker:
        now += 10
        assert str(transit.recorder_lag()) == "The recorder keeps up."
        with Producer(broker.address, "a/rank0/t1") as producer:
            for _ in range(7):
                producer.emit("step_end")
            producer.flush()
        now += 0.5
        assert not transit.recorder_lag().events, "an answer stands for a second"
        now += 1
        lag = transit.recorder_lag()
        assert (lag.is_known, lag.events) == (True, 7)
        assert 0 < lag.seconds < DEADLINE
        now += 0.7
        recorded_until = time.time() - lag.seconds - 0.7
        assert transit.as_of() == pytest.approx(recorded_until, abs=0.1), "not that of the answer"
        with Reader(broker.address, start=START) as reader:
            batch = reader.poll(DEADLINE)
            assert batch is not None
            writer.apply(reader.journal or "", [batch])
        now += 2
        assert transit.recorder_lag() == RecorderLag(0, 0.0)
        assert transit.as_of() == pytest.approx(time.time(), abs=0.1)


def test_a_recorder_stays_behind_while_the_broker_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    lags = iter([RecorderLag(7, 60.0), RecorderLag(None, problem="no broker"), RecorderLag(0, 0.0)])
    monkeypatch.setattr(transit_reader, "read_recorder_lag", lambda *_: next(lags))
    transit = TransitReader(Mock(), "", clock=lambda: now)
    for behind in (60.0, 60.0, 0.0):
        assert time.time() - transit.as_of() == pytest.approx(behind, abs=1.0)
        now += 10.0


def test_a_run_whose_events_are_not_recorded_yet_is_not_taken_for_disconnected(
    tmp_path: Path,
) -> None:
    harness, as_of = Harness(tmp_path), time.time() + 60.0
    harness.begin()
    store = StoreAccess(harness.settings.store, as_of=lambda: as_of)
    assert store.history.run("tiny-1").status == "disconnected"
    assert store.history.counts() == {"disconnected": 1}
    as_of -= 60.0  # the recorder is a minute behind
    assert store.history.run("tiny-1").status == "running"
    assert store.history.counts() == {"running": 1}
    assert [run.status for run in store.history.runs().items] == ["running"]


def test_the_dashboard_is_ready_only_while_the_recorder_keeps_up() -> None:
    assert recorder_check(RecorderLag(250_000, BEHIND_SECONDS - 1)).ok
    late = recorder_check(RecorderLag(250_000, 58.0))
    assert not late.ok
    assert late.detail == "The recorder is 58s and 250,000 events behind the broker."
    assert "58s behind" in str(RecorderLag(None, 58.0))


def test_the_dashboard_is_not_ready_with_a_store_of_a_newer_version(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE lineside_version SET version_num = 'z999'")
    with process(harness.settings.home, "--port", "0") as started:
        answer = httpx.get(f"{logged_url(started)}/readyz", timeout=DEADLINE)
        assert answer.status_code == 503
        assert "newer than this Lineside" in json.loads(answer.text)["checks"]["store"]["detail"]


def test_a_response_of_several_writes_is_not_delayed() -> None:
    with listen("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
