"""The shipped configuration of Alertmanager, and the receivers that start.sh adds to it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.scale import copy_scaled
from tests.deploy.monitoring import Alertmanager
from tests.deploy.shipped import DEPLOY, DOCS, rules
from tests.support.waiting import wait_until

START = DEPLOY / "alertmanager" / "start.sh"
CONFIG = DEPLOY / "alertmanager" / "alertmanager.yml"
EMAIL = {
    "ALERT_EMAIL_TO": "ada@example.org,bob@example.org",
    "ALERT_EMAIL_FROM": "lineside@example.org",
    "ALERT_SMTP": "mail.example.org:587",
    "ALERT_SMTP_USER": "lineside",
}


class Start:
    """Runs start.sh with ``echo`` in place of Alertmanager."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "alertmanager.yml"

    def __call__(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", START, "--log.level=debug"],
            env={
                "PATH": os.environ["PATH"],
                "ALERTMANAGER": "echo",
                "ALERTMANAGER_CONFIG": str(self.config),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def notify(self) -> dict[str, Any]:
        """The receiver ``notify`` in the file that was written."""
        receivers = yaml.safe_load(self.config.read_text())["receivers"]
        [found] = [one for one in receivers if one["name"] == "notify"]
        return dict(found)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


def test_without_variables_it_starts_and_warns_that_nothing_is_sent(start: Start) -> None:
    ended = start()
    assert ended.stdout == f"--config.file={start.config} --log.level=debug\n"
    assert "no receiver is set" in ended.stderr
    assert start.config.read_text() == CONFIG.read_text()


def test_receivers_of_the_environment_and_of_files_are_valid_and_private(
    start: Start, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    url, password = tmp_path / "url", tmp_path / "password"
    url.write_text("https://alerts.example.org/it's?a=b#c\n")
    password.write_text("it's: #secret\n")
    ended = start(ALERT_WEBHOOK_URL_FILE=str(url), ALERT_SMTP_PASSWORD_FILE=str(password), **EMAIL)
    assert (ended.returncode, ended.stderr) == (0, "")
    notify = start.notify()
    assert notify["webhook_configs"] == [{"url": url.read_text().strip(), "send_resolved": True}]
    assert notify["email_configs"] == [
        {
            "to": EMAIL["ALERT_EMAIL_TO"],
            "from": EMAIL["ALERT_EMAIL_FROM"],
            "smarthost": EMAIL["ALERT_SMTP"],
            "require_tls": True,
            "send_resolved": True,
            "auth_username": "lineside",
            "auth_password": "it's: #secret",
        }
    ]
    assert stat.S_IMODE(start.config.stat().st_mode) == 0o600
    command = [require_program("amtool"), "check-config", str(start.config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ALERT_WEBHOOK_URL": "alerts.example.org"}, "begins with http:// or https://"),
        ({"ALERT_WEBHOOK_URL_FILE": "/nowhere"}, "/nowhere, which cannot be read"),
        ({"ALERT_WEBHOOK_URL_FILE": "/dev/null"}, "/dev/null, which is empty"),
        ({"ALERT_WEBHOOK_URL": "http://a", "ALERT_WEBHOOK_URL_FILE": "/b"}, "both set"),
        ({"ALERT_WEBHOOK_URL": "http://a\n- name: b"}, "more than one line"),
        ({"ALERT_EMAIL_TO": "ada@example.org"}, "needs ALERT_EMAIL_FROM"),
        ({**EMAIL, "ALERT_SMTP": "mail.example.org"}, "needs ALERT_SMTP as host:port"),
        ({**EMAIL, "ALERT_SMTP_TLS": "no"}, "it is true or false"),
    ],
)
def test_a_variable_that_cannot_be_used_ends_it_before_alertmanager_starts(
    start: Start, environment: dict[str, str], message: str
) -> None:
    ended = start(**environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert not start.config.exists()


def test_the_how_to_lists_every_variable() -> None:
    pattern = r"\b(ALERT\w*[A-Z])\b"
    listed = re.findall(
        rf"^\| `{pattern}` \|", (DOCS / "how-to" / "alertmanager.md").read_text(), re.M
    )
    read = {name.removesuffix("_FILE") for name in re.findall(pattern, START.read_text())}
    assert set(listed) == read


def test_every_alert_that_inhibits_or_is_inhibited_exists() -> None:
    named = [
        re.fullmatch(r"alertname (=~|=) (.*)", matcher)
        for rule in yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
    ]
    for found in named:
        assert found is not None
        pattern = found[2].strip('"')
        matching = {name for name in rules("alert") if re.fullmatch(pattern, name)}
        assert len(matching) == pattern.count("|") + 1, pattern


def test_alerts_of_one_kind_are_one_message_without_those_that_follow_from_others(
    tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    copy_scaled(60, tmp_path)

    def alert(name: str, run: str, severity: str = "critical") -> dict[str, str]:
        labels = {"alertname": name, "run": run, "project": "p", "instance": "e"}
        return {**labels, "severity": severity}

    with Alertmanager(require_program, tmp_path) as alertmanager:
        firing = [
            *(alert("LinesideRunLost", run) for run in ("a", "b", "c")),
            alert("LinesideRunStalled", "a"),
            alert("LinesideRunStalled", "d"),
            alert("LinesideGpuIdle", "d", "warning"),
            alert("LinesideMetricsOverLimit", "d", "info"),
            alert("LinesideEventsLost", "a", "warning"),
        ]
        wait_until(lambda: alertmanager.post(*firing), "Alertmanager is up")
        # It waits the longest: what is to come has come before it.
        wait_until(
            lambda: any(n.name == "LinesideEventsLost" for n in alertmanager.webhook.received)
        )
        messages = alertmanager.webhook.messages
    assert sorted([(n.name, n.labels["run"]) for n in message] for message in messages) == [
        [("LinesideEventsLost", "a")],
        [("LinesideRunLost", "a"), ("LinesideRunLost", "b"), ("LinesideRunLost", "c")],
        [("LinesideRunStalled", "d")],
    ]
