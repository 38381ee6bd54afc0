"""The command lines and environments of a stack's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.settings import Settings
from lineside.cli.configuration.loading import load
from lineside.cli.stack import packages
from lineside.cli.stack.programs import programs
from lineside.cli.stack.supervisor import Program

SECRET = "5b1d2c77e0a94f"  # noqa: S105 - no secret
TEXT = """
broker: {listen: "tcp://0.0.0.0:7430"}
dashboard: {tokens: true}
exporter: {enabled: true, max_metrics: 5}
stopper: {rules: [{max_steps: 5}]}
subscribers:
  notify:
    class: m:C
    options: {token: "${TEST_TOKEN}"}
    environment: {LEVEL: high, LINESIDE_HOME: /elsewhere}
uploads:
  lake: {url: "https://lake.example.org/metrics", key: "${TEST_TOKEN}"}
  off: {enabled: false, url: "https://lake.example.org/metrics"}
archive: {url: "s3://models/runs", options: {secret_access_key: "${TEST_TOKEN}"}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"LINESIDE_HOME": str(tmp_path / "home")})


def arguments(program: Program) -> str:
    return " ".join(program.argv).partition("-m lineside.cli ")[2]


def test_options_are_arguments_and_secrets_stay_in_the_file(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    file = tmp_path / "lineside.yaml"
    file.write_text(TEXT)
    configuration = load(file, settings.home).with_trackers(["wandb"])
    found = programs(settings, configuration, {"dashboard": 8001})
    assert [arguments(one) for one in found] == [
        "broker --listen tcp://0.0.0.0:7430 --keep-days 7.0 --keep-gb 10.0",
        "recorder",
        "dashboard --host 127.0.0.1 --port 8001 --tokens --archive s3://models/runs",
        "exporter --host 127.0.0.1 --port 9743 --max-metrics 5 --interval 5.0",
        "sampler --interval 10.0",
        "stopper",
        "watchdog",
        "callback-host --max-processes 64 --to=wandb",
        "subscriber notify",
        "archiver --archive s3://models/runs",
        "uploader lake",
    ]
    assert [one.env["LINESIDE_CONFIG"] for one in found] == [
        *("", "", str(file), "", ""),
        *[str(file)] * 6,
    ]
    assert found[-3].env["LEVEL"] == "high"
    assert {one.env["LINESIDE_HOME"] for one in found} == {str(settings.home)}
    assert SECRET not in str(found)
    assert "callback-host" in [one.name for one in found if one.has_check]
    assert "archiver" in [one.name for one in found if one.has_check], "it may need packages"
    assert [one.is_required for one in found] == [*[True] * 4, False, True, *[False] * 5]


@pytest.mark.parametrize("has_package", [True, False])
def test_without_a_file_the_stack_has_a_sampler_where_its_package_is_installed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, has_package: bool
) -> None:
    problem = None if has_package else "no psutil"
    monkeypatch.setattr(packages, "missing_package", lambda _remedy="": problem)
    configuration = load(None, settings.home)
    packages.check_packages(configuration)
    assert packages.missing_sampler(configuration) == problem
    found = programs(settings, configuration)
    sampler = ["sampler"] if has_package else []
    optional = [*sampler, "watchdog", "callback-host"]
    assert [one.name for one in found] == ["broker", "recorder", "dashboard", *optional]
    assert not any(one.is_required for one in found if one.name in optional)
    settings.home.mkdir()
    (settings.home / "rules.yaml").write_text("rules: [{max_steps: 1}]")
    assert programs(settings, load(None, settings.home))[-3].name == "stopper"


def test_the_dashboard_reads_the_archive_with_the_options_of_the_file(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    file = tmp_path / "lineside.yaml"
    file.write_text(
        'archive: {url: "s3://bucket/prefix", options: {secret_access_key: "${TEST_TOKEN}"}}\n'
    )
    found = {one.name: one for one in programs(settings, load(file, settings.home))}
    assert arguments(found["dashboard"]).endswith("--archive s3://bucket/prefix")
    assert found["dashboard"].env["LINESIDE_CONFIG"] == str(file)
    assert SECRET not in str(found)
