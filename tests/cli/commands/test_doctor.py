"""``lineside doctor`` on machines with problems."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from lineside.bus.settings import Settings
from lineside.cli import doctor_checks as checks
from lineside.cli.stack.packages import REQUIRED_PACKAGES
from tests.cli.homes import Home, lineside_without


def report(home: Home, **env: str) -> dict[str, dict[str, str]]:
    """The checks of doctor by subject."""
    found = json.loads(home.lineside("doctor", "--json", env=env).stdout)
    return {check["subject"]: check for check in found["checks"]}


def test_a_machine_with_nothing_running_gets_hints_on_what_to_start(home: Home) -> None:
    done = home.lineside("doctor")
    assert done.returncode == 1
    assert "fail  broker" in done.stdout
    assert "start it with `lineside up`" in done.stdout
    assert "ok    home" in done.stdout
    assert not home.path.exists()


def test_an_environment_for_training_only_passes_beside_a_running_stack(running_home: Home) -> None:
    done = lineside_without([*REQUIRED_PACKAGES, "starlette"], running_home, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    broker" in done.stdout
    assert "warn  store                the run history needs the package sqlalchemy" in done.stdout


def test_an_invalid_address_is_a_fail(home: Home) -> None:
    found = report(home, LINESIDE_BROKER="ipc:///" + "x" * 120)
    assert found["broker"]["state"] == "fail"
    assert "a Unix socket takes 107" in found["broker"]["detail"]


def test_a_home_that_cannot_be_written_is_a_fail(home: Home) -> None:
    found = report(home, LINESIDE_HOME="/proc/1")
    assert found["home"] == {
        "subject": "home",
        "state": "fail",
        "detail": "/proc/1 is not writable",
        "hint": "set LINESIDE_HOME to a folder you may write",
    }


def test_a_home_open_to_others_is_a_warning(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    found = report(home)
    assert found["home"]["state"] == "warn"
    assert found["home"]["hint"] == f"chmod 700 {home.path}"


def test_a_recorder_that_lags_is_a_fail(home: Home) -> None:
    process, _ = home.up("--quiet")
    process.close()
    home.start("broker").until("listening")
    home.train()
    found = report(home)
    assert found["recorder"]["state"] == "fail"
    assert re.fullmatch(r"\d+s and [\d,]+ events behind the broker", found["recorder"]["detail"])


@pytest.mark.parametrize(
    ("free", "state"), [(100 << 20, "fail"), (1 << 30, "warn"), (10 << 30, "ok")]
)
def test_disk_space_is_checked_before_it_runs_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str
) -> None:
    """The free space is given: a disk of each size would be slow to make."""
    settings = Settings.from_env({"LINESIDE_HOME": str(tmp_path)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    (disk,) = [check for check in checks.run_checks(settings) if check.subject == "disk"]
    assert disk.state == state


def test_events_that_wait_beside_a_shipper_whose_broker_is_silent_are_a_warning(
    home: Home,
) -> None:
    home.train()
    found = report(home)
    assert found["shipper"]["state"] == "warn"
    assert f"no broker answers at ipc://{home.path}/bus.sock" in found["shipper"]["detail"]
    assert found["spool"]["state"] == "warn"
    assert "none was confirmed in" in found["spool"]["detail"]
    os.kill(int(found["shipper"]["detail"].split()[1]), signal.SIGTERM)
