"""What ``lineside archiver`` refuses before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.homes import Home

FILE = """
archive:
  url: s3://models/runs
  options: {regoin: eu-1, secret_access_key: "${TEST_TOKEN}"}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_an_archiver_without_an_archive_names_the_remedy(home: Home, tmp_path: Path) -> None:
    ended = home.lineside("archiver")
    assert ended.returncode == 2
    assert "there is no archive of checkpoints; name a file by --config" in ended.stderr
    file = tmp_path / "lineside.yaml"
    file.write_text("archive: {save_total_limit: 1}")
    ended = home.lineside("archiver", "--config", str(file))
    assert f"set archive.url in {file}, or give --archive URL" in ended.stderr


def test_an_option_of_the_store_that_does_not_exist_is_a_fault_of_the_file(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "lineside.yaml"
    file.write_text(FILE)
    env = {"TEST_TOKEN": "5b1d2c77e0a94f"}
    for command in (("archiver", "--check", "--config"), ("config", "check")):
        ended = home.lineside(*command, str(file), env=env)
        assert ended.returncode == 2
        assert f"{file}, line 3: archive.url" in ended.stderr
        assert "does not know: regoin; expected one such as region, endpoint" in ended.stderr
    shown = home.lineside("config", "show", str(file), env=env)
    assert "5b1d2c77e0a94f" not in shown.stdout + ended.stderr
    assert "secret_access_key: <redacted>" in shown.stdout
    assert "url: s3://models/runs" in shown.stdout


@pytest.mark.parametrize("url", ["ftp://host/models", "s3:/models"])
def test_a_place_that_is_no_archive_is_refused(home: Home, url: str) -> None:
    ended = home.lineside("up", "--archive", url)
    assert ended.returncode == 2
    assert f"--archive '{url}': expected s3://BUCKET/PREFIX" in ended.stderr
