"""The health check of one process: good while it does its work."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from lineside.bus.errors import StoreTooNew
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.cli import health
from lineside.store.database.engine import open_store
from lineside.store.database.migrate import VERSION_TABLE
from lineside.subscribers.recorder.recorder import Recorder
from lineside.subscribers.state.progress_file import ProgressFile
from tests.cli.homes import Home
from tests.support.waiting import wait_until


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"LINESIDE_HOME": str(tmp_path)})


def test_each_process_of_a_running_stack_is_good(
    running_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINESIDE_HOME", str(running_home.path))
    wait_until(lambda: health.main(["recorder"]) == 0, "the recorder notes that it keeps up")
    wait_until(lambda: health.main(["watchdog"]) == 0, "the watchdog notes that it judges")
    assert health.main(["broker"]) == 0
    port = urlsplit(running_home.page).port
    assert health.main(["dashboard", "--port", str(port)]) == 0
    sentences = capsys.readouterr().out
    assert "recorder keeps up" in sentences
    assert "the broker answers, its journal is at" in sentences
    assert "the dashboard is ready" in sentences


def test_what_does_not_run_is_not_good(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "_BROKER_SECONDS", 0.2)
    monkeypatch.setenv("LINESIDE_HOME", str(settings.home))
    for name in ("broker", "recorder", "shipper"):
        assert health.main([name]) == 1
    assert health.main(["dashboard", "--port", "1"]) == 1
    sentences = capsys.readouterr().out.splitlines()
    assert sentences[0].startswith("no broker answered at")
    assert sentences[1] == f"recorder has not begun on {settings.home}"
    assert sentences[2] == f"no shipper runs for {settings.home}/spool"
    assert "does not answer" in sentences[3]


def test_a_broker_that_hangs_is_not_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "_BROKER_SECONDS", 0.3)
    with BrokerProcess(tmp_path) as broker:
        monkeypatch.setenv("LINESIDE_HOME", str(tmp_path))
        monkeypatch.setenv("LINESIDE_BROKER", broker.address)
        assert health.main(["broker"]) == 0
        broker.freeze()
        assert health.main(["broker"]) == 1
        broker.resume()


def test_a_broker_that_can_take_no_events_is_not_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with BrokerProcess(tmp_path) as broker:
        monkeypatch.setenv("LINESIDE_HOME", str(tmp_path))
        monkeypatch.setenv("LINESIDE_BROKER", broker.address)
        assert Settings.from_env().journal.exists()
        usage = type("Usage", (), {"free": 4096})
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        assert health.main(["broker"]) == 1
        assert "4,096 bytes are free" in capsys.readouterr().out


def test_a_subscriber_is_good_while_it_can_work_and_keeps_up(settings: Settings) -> None:
    clock = Clock()
    file = ProgressFile(settings.home, "watch", clock)
    file.begin()

    def after(seconds: float, *, problem: str = "", head: int, processed: int) -> str:
        clock.now += seconds
        file.update(problem=problem, head=head, processed=processed)
        found = health.subscriber(settings, "watch")
        return f"{'good' if found.is_good else 'bad'}: {found.sentence}"

    assert after(10, head=50, processed=0) == "good: watch keeps up"
    # New entries come all the time: it never reaches the end, and is not behind.
    for head in range(60, 200, 10):
        assert after(10, head=head, processed=head - 10) == "good: watch keeps up"
    assert after(55, head=500, processed=185) == "good: watch keeps up"
    assert after(10, head=500, processed=185) == "bad: watch is 65 s behind the broker"
    assert after(10, head=500, processed=500) == "good: watch keeps up"
    found = after(10, problem="no broker answers", head=500, processed=500)
    assert found == "bad: watch: no broker answers"
    # Another journal took the place of the broker's.
    file.restart()
    assert after(10, head=3, processed=0) == "good: watch keeps up"


def test_a_subscriber_that_hangs_is_not_good(settings: Settings) -> None:
    file = ProgressFile(settings.home, "watch")
    file.begin()
    file.update(head=1, processed=1)
    found = health.subscriber(settings, "watch", lambda: time.time() + 40)
    assert not found.is_good
    assert found.sentence == "watch has made no progress for 40 s: it hangs or has ended"


def test_a_recorder_that_cannot_start_is_not_good_by_what_the_one_before_noted(
    settings: Settings,
) -> None:
    file = ProgressFile(settings.home, "recorder")
    file.begin()
    file.update(head=1, processed=1)
    assert health.subscriber(settings, "recorder").is_good
    store = open_store(settings.store, create=True)
    with store.begin() as connection:
        newer = f"UPDATE {VERSION_TABLE} SET version_num = '9999'"  # noqa: S608 - our own name
        connection.execute(text(newer))
    store.dispose()
    with pytest.raises(StoreTooNew):
        Recorder(settings).startup()
    assert not health.subscriber(settings, "recorder").is_good


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"written_at": "now"})])
def test_a_file_that_makes_no_sense_is_no_progress(settings: Settings, content: str) -> None:
    file = ProgressFile(settings.home, "watch")
    file.begin()
    (settings.home / "health" / "watch.json").write_text(content)
    assert not health.subscriber(settings, "watch").is_good
