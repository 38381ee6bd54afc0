"""``compose.yaml`` fits the commands, the configuration and the documentation; needs no engine.

``tests/compose`` runs it.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from lineside.bus.settings import DASHBOARD_PORT, EXPORTER_PORT, Settings
from lineside.cli import first_start
from lineside.cli.configuration import loading
from lineside.cli.main import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "compose.yaml").read_text()
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
OWN = {n: one for n, one in SERVICES.items() if str(one["image"]).startswith("lineside")}
ONE_SHOT = ("setup", "demo")
PAGE = (ROOT / "docs" / "how-to" / "compose.md").read_text()
DOCKERFILE = (ROOT / "deploy" / "images" / "Dockerfile").read_text()
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VARIABLE = re.compile(r"\$\{([A-Z_]+)")


def volumes(service: dict[str, Any]) -> dict[str, str]:
    """The source of each mount by its place in the container."""
    found = {}
    for mount in service.get("volumes", ()):
        source, target = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", mount).split(":")[:2]
        found[target] = source
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_documented(name: str) -> None:
    service = SERVICES[name]
    assert f"| `{name}` |" in PAGE
    assert service["security_opt"] == ["no-new-privileges:true"]
    for limit in ("mem_limit", "cpus", "stop_grace_period", "logging"):
        assert limit in service, limit
    if name in OWN:
        assert service["user"] == "${LINESIDE_USER:-10001:10001}"
        assert service["init"] is True
    if name != "postgres":  # its entry point changes the owner of its folder, and the user
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    if name not in ONE_SHOT:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", [name for name in OWN if name not in ONE_SHOT])
def test_every_process_has_its_command_and_its_own_health_check(name: str) -> None:
    command, *arguments = OWN[name]["command"]
    assert command in COMMANDS
    [process] = arguments or [command]  # an upload is a process of its own name
    check = ["CMD", "python", "-m", "lineside.cli.health", process]
    assert OWN[name]["healthcheck"]["test"] == check
    assert OWN[name]["environment"]["LINESIDE_CONFIG"] == "/etc/lineside/lineside.yaml"


@pytest.mark.parametrize("name", ONE_SHOT)
def test_modules_that_containers_run_exist(name: str) -> None:
    words = [*OWN[name].get("entrypoint", ()), *OWN[name]["command"]]
    assert importlib.util.find_spec(words[words.index("-m") + 1]) is not None


def test_the_first_start_takes_the_options_of_setup_and_writes_where_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = OWN["setup"]
    mounts = volumes(setup)
    options = []
    for option in setup["command"]:
        name, _, file = option.partition("=")
        assert any(file.startswith(place) for place in mounts), option
        (tmp_path / Path(file).parent.name).mkdir(exist_ok=True)
        options.append(f"{name}={tmp_path / Path(file).parent.name / Path(file).name}")
    monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / "home"))
    assert first_start.main(options) == 0
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    scrape = prometheus["scrape_configs"][0]
    token = Path(scrape["authorization"]["credentials_file"])
    volume = volumes(SERVICES["prometheus"])[str(token.parent)]
    written = next(place for place, source in mounts.items() if source == volume)
    assert f"--scrape-token={written}/{token.name}" in setup["command"]
    assert scrape["static_configs"][0]["targets"] == [f"exporter:{EXPORTER_PORT}"]


def test_the_configuration_file_is_valid_and_listens_where_ports_are_published() -> None:
    configuration = loading.load(ROOT / "deploy" / "lineside.yaml", Path("/nowhere"))
    values = configuration.values
    assert configuration.runs_stopper
    assert values.broker.listen == "tcp://0.0.0.0:7430"
    assert SERVICES["broker"]["ports"] == ["${LINESIDE_BROKER_PORT:-7430}:7430"]
    assert (values.dashboard.host, values.dashboard.port) == ("0.0.0.0", DASHBOARD_PORT)  # noqa: S104
    page = f"${{LINESIDE_PAGE:-127.0.0.1:{DASHBOARD_PORT}}}:{DASHBOARD_PORT}"
    assert SERVICES["dashboard"]["ports"] == [page]
    assert (values.exporter.host, values.exporter.port) == ("0.0.0.0", EXPORTER_PORT)  # noqa: S104
    assert "ports" not in SERVICES["exporter"]


def test_every_process_and_a_job_share_one_socket_and_one_spool() -> None:
    environment = OWN["broker"]["environment"]
    job = Settings.from_env({"LINESIDE_HOME": SERVICES["demo"]["environment"]["LINESIDE_HOME"]})
    assert environment["LINESIDE_BROKER"] == job.broker
    assert environment["LINESIDE_SPOOL"] == str(job.spool)
    for name in set(OWN) - {"setup"}:
        assert volumes(OWN[name])[str(job.home)] == "bus", name
        is_job = name == "demo"
        assert is_job or OWN[name]["environment"] == environment


def test_the_process_that_opens_what_jobs_wrote_and_the_jobs_see_no_keys() -> None:
    for name in ("shipper", "demo"):
        assert "home" not in volumes(OWN[name]).values(), name
    assert "home" in volumes(OWN["broker"]).values()


def test_pages_are_published_on_loopback_only() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert name == "broker" or ":-127.0.0.1:" in port, name


def test_every_volume_is_made_and_documented_and_every_folder_exists() -> None:
    used = {source for service in SERVICES.values() for source in volumes(service).values()}
    named = {source for source in used if not source.startswith("./")}
    assert named == set(DOCUMENT["volumes"])
    for volume in named:
        assert f"`{volume}`" in PAGE, volume
    for folder in used - named:
        assert (ROOT / folder).exists(), folder


def test_every_variable_is_documented_with_its_default() -> None:
    rows = {
        name: row
        for row in re.findall(r"^\| (`.*) \|$", PAGE.partition("## Variables")[2], re.M)
        for name in re.findall(r"`([A-Z_]+)`", row.split(" | ")[0])
    }
    assert set(VARIABLE.findall(TEXT)) == set(rows)
    for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]+)\}", TEXT):
        if not name.endswith("_IMAGE"):
            assert f"`{default}`" in rows[name], name


def test_no_secret_is_in_a_variable_of_a_container() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            is_secret = re.search(r"PASSWORD|TOKEN|SECRET|WEBHOOK", variable)
            assert not is_secret or variable.endswith("_FILE"), (name, variable)


def test_the_image_holds_every_package_and_nothing_else_of_the_checkout() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M))
    project = (ROOT / "pyproject.toml").read_text()
    assert copied == set(re.findall(r'^"lineside\.\w+" = "(\w+)"$', project, re.M))
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[0] == "*"
    given = [
        shlex.split(line)[1:-1] for line in re.findall(r"^COPY (?!--from).*", DOCKERFILE, re.M)
    ]
    assert {f"!{file}" for files in given for file in files} <= set(allowed)


def test_the_image_has_a_folder_that_any_user_may_write_for_each_volume_of_lineside() -> None:
    made = re.search(r"^RUN mkdir -p (.*?)^ && chmod 1777 (.*?)$", DOCKERFILE, re.M | re.S)
    assert made is not None
    folders = made[1].replace("\\\n", " ").split()
    places = {
        place for one in OWN.values() for place, source in volumes(one).items() if "/" not in source
    }
    assert places <= set(folders)
