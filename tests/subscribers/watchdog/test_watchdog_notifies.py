"""``lineside watchdog`` with targets of notifications, as a process beside broker and recorder."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from tests.cli.homes import Home
from tests.subscribers.conftest import ServiceProcess
from tests.subscribers.watchdog.notification.kit import SECRET
from tests.subscribers.watchdog.notification.smtp_server import SmtpServer, smtp_server
from tests.support.http_receiver import HANG, HttpReceiver, http_receiver
from tests.support.waiting import wait_until

ATTEMPT = "20261129T000000-0000"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as server:
        yield server


@pytest.fixture
def monitor() -> Iterator[HttpReceiver]:
    with http_receiver() as server:
        yield server


@pytest.fixture
def mail() -> Iterator[SmtpServer]:
    with smtp_server() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, receiver: HttpReceiver, monitor: HttpReceiver, mail: SmtpServer) -> Path:
    file = tmp_path / "lineside.yaml"
    file.write_text(
        f"""
alerts:
  interval: 1
  page: https://page.example
  notify:
    - webhook: {{url: "{receiver.url}/secret-path", secret: {SECRET}}}
    - url: mailto://127.0.0.1:{mail.port}/?from=a@example.org&to=secret-person@example.org
      severity: critical
  heartbeat: {{url: "{monitor.url}/secret-check", interval: 5}}
"""
    )
    return file


def waiting(settings: Settings) -> int:
    """How many notifications the outbox holds."""
    file = settings.home / "subscribers" / "watchdog.1.db"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        (count,) = db.execute("SELECT COUNT(*) FROM notifications").fetchone()
    return int(count)


def test_an_alert_reaches_each_target_once_though_the_watchdog_is_killed(
    settings: Settings,
    engine: Engine,
    broker: BrokerProcess,
    config: Path,
    receiver: HttpReceiver,
    monitor: HttpReceiver,
    mail: SmtpServer,
) -> None:
    receiver.answers = [HANG]
    watchdog = ServiceProcess("watchdog", settings, "--config", str(config))
    with (
        ServiceProcess("recorder", settings),
        watchdog,
        Producer(broker.address, f"run/rank0/{ATTEMPT}") as rank,
    ):
        rank.emit("run_start", data={"name": "my run", "process": {"host": "node1"}})
        rank.emit("train_begin", data={"state": {"max_steps": 100}})
        rank.emit("log", step=1, data={"logs": {"loss": math.nan}})
        rank.flush(30)
        wait_until(lambda: receiver.requests and mail.mails and monitor.requests)
        assert SECRET not in str(psutil.Process(watchdog.pid).cmdline())
        # A mail that is taken in the very moment of the kill is sent again.
        wait_until(lambda: waiting(settings) == 1)
        watchdog.kill()
        assert not receiver.taken
        watchdog.start()
        wait_until(lambda: receiver.taken)
        rank.emit("log", step=2, data={"logs": {"loss": 1.0}})
        rank.flush(30)
        wait_until(lambda: len(receiver.taken) == 2 and len(mail.mails) == 2)
        log_text = watchdog.log_text()
    first, second = receiver.taken
    assert first.headers["webhook-id"] == receiver.requests[0].headers["webhook-id"]
    assert (first.json["type"], second.json["type"]) == ("alert.opened", "alert.closed")
    assert first.json["data"]["rule"] == "nan"
    assert first.json["data"]["run"]["name"] == "my run"
    assert first.json["data"]["link"] == "https://page.example/runs/run"
    titles = [one["Subject"] for one in mail.mails]
    assert titles[0].startswith("[CRITICAL] my run: ")
    assert titles[1].startswith("[Resolved] my run: ")
    for secret in ("secret-path", "secret-check", "secret-person", SECRET):
        assert secret not in log_text


def test_a_test_notification_reports_each_target(
    home: Home, config: Path, receiver: HttpReceiver, mail: SmtpServer
) -> None:
    receiver.answers = [500]
    done = home.lineside("watchdog", "--config", str(config), "--test-notification")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == [
        "webhook 127.0.0.1  not taken: the answer was 500 Internal Server Error",
        "E-Mail             taken",
    ]
    assert mail.mails[0]["Subject"].startswith("[Test] ")
    done = home.lineside("watchdog", "--config", str(config), "--test-notification")
    assert done.returncode == 0
    assert receiver.taken[0].json["type"] == "alert.test"
    done = home.lineside("watchdog", "--test-notification")
    assert done.returncode == 2
    assert "there is no target of notifications: expected alerts.notify" in done.stderr


def test_targets_that_cannot_be_used_are_reported_before_anything_starts(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "lineside.yaml"
    file.write_text("alerts:\n  notify:\n    - url: slack://abcdefgh\n")
    for command in (("config", "check", str(file)), ("up", "--port", "0", "--config", str(file))):
        done = home.lineside(*command)
        assert done.returncode == 2
        assert "line 3: alerts.notify[0].url: 'slack://<redacted>' is invalid" in done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    it = Home(tmp_path / "other-home")
    yield it
    it.close()
