"""``lineside up --config``: the stack runs what the file has, and nothing if it has a fault."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from lineside.cli.stack.home_lock import is_held
from lineside.cli.stack.http_probe import get_json
from tests.cli.homes import RUN_ID, Home, lineside_without
from tests.cli.stack.test_up import children
from tests.support.forked import ForkedScript
from tests.support.waiting import DEADLINE, wait_until

ROOT = Path(__file__).parents[3]
TRAINER = ROOT / "tests" / "subscribers" / "stopper" / "scripted_trainer.py"
NOTIFY = """
import os
from pathlib import Path
from lineside.subscribers import Subscriber

class Notify(Subscriber):
    def __init__(self, prefix: str, copies: int = 1, token: str = "") -> None:
        self.prefix, self.token = prefix * copies, token

    def on_evaluate(self, run, event):
        with Path("seen.txt").open("a") as seen:
            print(self.prefix, os.environ["LEVEL"], self.token, event.step, file=seen)
"""
CONFIGURATION = """
broker: {keep_days: 2}
dashboard: {port: "${TEST_PORT:-1}"}
exporter: {enabled: true, port: 0, interval: 0.5}
sampler: {enabled: true, interval: 1}
stopper:
  rules:
    - monitor: eval_score
      mode: min
      patience: 2
      action: stop
subscribers:
  notify:
    class: notify:Notify
    folder: code
    options:
      prefix: ab
      copies: 2
      token: ${TEST_TOKEN}
    environment:
      LEVEL: high
      LINESIDE_HOME: ${TEST_HOME}
"""
TOKEN = "not-for-the-command-line"  # noqa: S105 - no secret


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_HOME", str(tmp_path / "own"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "notify.py").write_text(NOTIFY)
    path = tmp_path / "lineside.yaml"
    path.write_text(CONFIGURATION)
    return path


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


def test_a_configured_stack_stops_a_training_and_runs_a_subscriber_of_the_user(
    home: Home, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    process, page = home.up("--config", str(file))
    process.until(rf"config +{file}\n")
    assert not page.endswith(":1"), "the option wins over the file"
    running = children(process.pid)
    assert sorted(running) == [
        "broker",
        "callback-host",
        "dashboard",
        "exporter",
        "recorder",
        "sampler",
        "stopper",
        "subscriber",
        "watchdog",
    ]
    assert arguments(running["broker"])[-5:-1] == ["--keep-days", "2.0", "--keep-gb", "10.0"]
    assert TOKEN not in "".join("".join(arguments(pid)) for pid in running.values())

    process.until(r"stopper +\| \S+ INFO stopper: started")
    training = ForkedScript(
        [TRAINER, tmp_path / "out", "500", "1,2,3", "wait=60"],
        env=home.environment({"LINESIDE_RUN_ID": RUN_ID}),
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = training.communicate(timeout=DEADLINE)
    assert output.split()[-2] == "3", "patience 2 ends at the third evaluation"

    seen = tmp_path / "code" / "seen.txt"
    expected = [f"abab high {TOKEN} {step}" for step in (1, 2, 3)]
    wait_until(lambda: seen.exists() and seen.read_text().splitlines() == expected)
    assert (tmp_path / "own" / "subscribers" / "notify.1.db").exists()
    wait_until(lambda: get_json(f"{page}/api/runs/{RUN_ID}")[1].get("status") == "stopped")

    metrics = process.until(r"metrics (http://\S+)\n")
    wait_until(lambda: f'run="{RUN_ID}"' in httpx.get(metrics).text, "the exporter has the run")

    os.kill(running["subscriber"], signal.SIGKILL)
    process.until(r"notify ended \(SIGKILL\), next start in 0.5 s")
    process.until(r"notify started again, once so far")


def test_the_variable_names_the_file_and_a_process_reads_its_own_section(
    home: Home, file: Path
) -> None:
    env = {"LINESIDE_CONFIG": str(file), "TEST_TOKEN": TOKEN, "TEST_PORT": "0"}
    up = home.start("up", env=env)
    up.until("Ctrl-C ends it")
    assert {"stopper", "subscriber"} < children(up.pid).keys()
    up.send(signal.SIGTERM)
    assert up.wait() == 0
    home.start("dashboard", env=env).until(r"dashboard: http://127\.0\.0\.1:\d\d+")


def test_a_stack_of_a_broker_alone_is_ready(home: Home, tmp_path: Path) -> None:
    text = "dashboard: {enabled: no}\nrecorder: {enabled: no}\nsampler: {enabled: no}\n"
    text += "callback_host: {enabled: no}"
    (tmp_path / "lineside.yaml").write_text(text)
    process = home.start("up", "--config", str(tmp_path / "lineside.yaml"))
    process.until("Ctrl-C ends it")
    assert "page" not in process.out
    assert sorted(children(process.pid)) == ["broker"]
    checks = json.loads(home.lineside("doctor", "--json").stdout)["checks"]
    [found] = [check for check in checks if check["subject"] == "dashboard"]
    assert found["state"] == "ok"
    assert "http://" not in home.train()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "copies: 2",
            "copies: ${TEST_TOKEN}",
            "line 18: {key}.options.copies: '${TEST_TOKEN}' is invalid; expected a whole number",
        ),
        (
            "copies: 2",
            "copy: 2",
            "line 18: {key}.options.copy: unknown key; did you mean copies? "
            "The keys here are copies, prefix, token",
        ),
        (
            "      prefix: ab\n",
            "",
            "line 16: {key}.options.prefix: is missing; "
            "expected a value, Notify has no default for it",
        ),
        (
            "notify:Notify",
            "notify:Other",
            "line 14: {key}.class: 'notify:Other': Other is not there; "
            "expected the name of such a class",
        ),
        (
            "notify:Notify",
            "absent:Notify",
            "line 14: {key}.class: there is no module 'absent', "
            "neither in {code} nor installed: expected MODULE:CLASS",
        ),
        (
            "broker:",
            "broker:\nbrokr:",
            "line 3: brokr: unknown key; did you mean broker? "
            "The keys here are alerts, archive, broker, callback_host, custom_callbacks, "
            "dashboard, exporter, recorder, sampler, stopper, subscribers, uploads",
        ),
    ],
)
def test_a_fault_is_reported_before_anything_starts(
    home: Home, file: Path, old: str, new: str, message: str
) -> None:
    file.write_text(file.read_text().replace(old, new))
    for command in (("up", "--port", "0", "--config"), ("config", "check")):
        done = home.lineside(*command, str(file), env={"TEST_TOKEN": TOKEN})
        assert done.returncode == 2
        expected = message.replace("{code}", str(file.parent / "code"))
        expected = expected.replace("{key}", "subscribers.notify")
        assert done.stderr == f"lineside: {file}, {expected}\n"
    assert not (home.path / "journal.db").exists()
    assert not is_held(home.path)


def test_a_module_that_cannot_be_imported_is_named_with_its_line(home: Home, file: Path) -> None:
    module = file.parent / "code" / "notify.py"
    module.write_text(NOTIFY + "\nraise OSError('no network')\n")
    done = home.lineside("up", "--config", str(file), "--port", "0", env={"TEST_TOKEN": TOKEN})
    assert done.returncode == 2
    assert done.stderr == (
        f"lineside: {file}, line 14: subscribers.notify.class: notify:Notify cannot be imported: "
        f"OSError: no network ({module}, line {NOTIFY.count(chr(10)) + 2})\n"
    )


def test_a_subscriber_that_fails_later_does_not_keep_the_stack_from_starting(
    home: Home, file: Path
) -> None:
    text = NOTIFY.replace("import os", "import os, sys\nif '--check' not in sys.argv: os._exit(3)")
    (file.parent / "code" / "notify.py").write_text(text)
    env = {"TEST_TOKEN": TOKEN}
    process = home.start("up", "--config", str(file), "--port", "0", env=env)
    process.until(r"notify ended \(exit code 3\), next start in")
    process.until("Ctrl-C ends it")


def test_config_show_prints_the_effective_values_without_secrets(home: Home, file: Path) -> None:
    shown = home.lineside("config", "show", str(file), env={"TEST_TOKEN": TOKEN})
    assert shown.returncode == 0
    assert TOKEN not in shown.stdout
    assert "token: <redacted>" in shown.stdout
    assert "keep_gb: 10.0" in shown.stdout
    found = home.lineside("config", "show", str(file), "--json", env={"TEST_TOKEN": TOKEN})
    assert json.loads(found.stdout)["subscribers"]["notify"]["options"]["copies"] == "2"


def test_config_check_prints_what_would_run_or_the_faults_as_json(home: Home, file: Path) -> None:
    env = {"TEST_TOKEN": TOKEN}
    done = home.lineside("config", "check", str(file), env=env)
    assert re.fullmatch(
        r"\S+ is valid: `lineside up` runs broker, recorder, dashboard, exporter, sampler, "
        r"stopper \(1 rule\), watchdog, callback-host, notify\n",
        done.stdout,
    )
    assert json.loads(home.lineside("config", "check", "--json", str(file), env=env).stdout) == {
        "ok": True,
        "problems": [],
    }
    file.write_text("dashboard: {port: x}")
    done = home.lineside("config", "check", "--json", env={"LINESIDE_CONFIG": str(file)})
    assert done.returncode == 2
    [problem] = json.loads(done.stdout)["problems"]
    assert (problem["line"], problem["key"]) == (1, "dashboard.port")
    assert problem["message"].endswith("expected a whole number from 0 to 65535")
    file.write_text("subscribers: {s: {class: nowhere:C}}")
    for path, message in ((file, "line 1: subscribers.s.class: "), ("absent", "cannot be read")):
        done = home.lineside("config", "check", "--json", str(path))
        assert done.returncode == 2
        [problem] = json.loads(done.stdout)["problems"]
        assert message in problem["message"]


def test_config_check_finds_that_a_package_is_missing(home: Home, file: Path) -> None:
    file.write_text("sampler: {enabled: true}")
    done = lineside_without(["psutil"], home, "config", "check", str(file))
    assert done.returncode == 2
    assert "pip install 'lineside[system]'" in done.stderr


def test_up_without_the_package_of_the_sampler_reports_it_and_starts_the_others(home: Home) -> None:
    home.path.mkdir(mode=0o700)
    (home.path / "journal.db").write_bytes(b"no database" * 1000)  # so that it ends
    done = lineside_without(["psutil"], home, "up", "--quiet", "--port", "0")
    missing, ended = done.stderr.splitlines()
    assert re.fullmatch(
        r"no system metrics: \S+ has no psutil; pip install 'lineside\[system\]', "
        r"or turn it off by `sampler: \{enabled: false\}` in the configuration file",
        missing,
    )
    assert "the broker ended" in ended
    assert {path.name for path in (home.path / "logs").iterdir()} >= {"broker.log", "recorder.log"}
    assert not (home.path / "logs" / "sampler.log").exists()


def test_a_stopper_and_a_subscriber_run_alone_by_the_file(home: Home, file: Path) -> None:
    env = {"LINESIDE_CONFIG": str(file), "TEST_TOKEN": TOKEN}
    home.start("broker", env=env).until("listening at")
    home.start("stopper", "--dry-run", env=env).until("stopper: started")
    home.start("subscriber", "notify", env=env).until("notify: started")
    for arguments, message in (
        (("notfy",), "'notfy' is no subscriber: expected MODULE:CLASS, as my_module:Slack, or"),
        (("notify", "-o", "copies=x"), "-o copies=x: expected a whole number"),
        (("notify", "--config", "absent.yaml"), "absent.yaml cannot be read: No such file or dire"),
    ):
        done = home.lineside("subscriber", *arguments, env=env)
        assert done.returncode == 2
        assert done.stderr.startswith(f"lineside: {message}")
