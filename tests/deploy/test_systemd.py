"""The unit files: valid for systemd, and with commands that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from lineside.cli.main import app
from lineside.cli.stack import service_manager, up_service
from tests.deploy.shipped import DEPLOY

UNITS = sorted((DEPLOY / "systemd").glob("*/*"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MAX_EXPOSURE = 2.0
"""Of a system service, by `systemd-analyze security`: 0 is sealed off, 10 is open."""


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def with_a_program(unit: Path, folder: Path) -> Path:
    """A copy whose program exists on this machine."""
    copy = folder / unit.name
    copy.write_text(re.sub(r"^(ExecStart)=\S+", r"\1=/bin/true", unit.read_text(), flags=re.M))
    return copy


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd is not installed")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit.parent.name}/{unit.name}")
def test_systemd_finds_no_fault(unit: Path, tmp_path: Path, systemd_analyze: str) -> None:
    for other in unit.parent.iterdir():  # a timer needs its service
        with_a_program(other, tmp_path)
    checked = subprocess.run(
        [systemd_analyze, "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", [one for one in SERVICES if one.parent.name == "system"])
def test_a_system_service_is_sealed_off(unit: Path, tmp_path: Path, systemd_analyze: str) -> None:
    checked = subprocess.run(
        [systemd_analyze, "security", "--offline=true", str(with_a_program(unit, tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", checked.stdout)
    assert exposure, checked.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: f"{unit.parent.name}/{unit.name}")
def test_every_command_exists(unit: Path) -> None:
    (line,) = values(unit, "ExecStart")
    program, command, *arguments = shlex.split(line)
    assert program.endswith("/bin/lineside")
    real = {name for parameter in COMMANDS[command].params for name in parameter.opts}
    assert {word for word in arguments if word.startswith("-")} <= real


def test_a_start_may_take_as_long_as_up_waits() -> None:
    for unit in (one for one in SERVICES if one.name == "lineside.service"):
        assert values(unit, "Type") == ["notify"]
        assert float(values(unit, "TimeoutStartSec")[0]) > up_service.READY_SECONDS


def test_a_stack_that_waits_for_a_database_is_started_again_without_end() -> None:
    for unit in (one for one in SERVICES if one.name == "lineside.service"):
        assert values(unit, "Restart") == ["always"]
        assert values(unit, "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@no-such-socket"])
def test_a_service_manager_that_is_not_there_changes_nothing(address: str) -> None:
    service_manager.notify("READY=1", env={"NOTIFY_SOCKET": address})
