"""Secrets of a stack of containers: made at its first start, and only then."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

import pytest

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.auth.keyring import TOKEN, Keyring, keys_folder, token_hash
from lineside.cli import first_start

FILES = ("scrape-token", "grafana-password", "postgres-password", "pgpass")


class Stack:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = folder / "home"
        self.files = {name: folder / name for name in FILES}
        self._capsys = capsys

    @property
    def keyring(self) -> Keyring:
        return Keyring(keys_folder(self.home))

    def start(self) -> str:
        """Start it, and what is printed."""
        options = [f"--{name}={path}" for name, path in self.files.items()]
        assert first_start.main(options) == 0
        return self._capsys.readouterr().out

    def roles(self, token: str) -> tuple[str, ...]:
        found = self.keyring.find(TOKEN, token_hash(token))
        return () if found is None or found.revoked else found.roles


@pytest.fixture
def stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Stack:
    monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / "home"))
    return Stack(tmp_path, capsys)


def test_the_first_start_makes_every_secret_and_prints_those_for_people(stack: Stack) -> None:
    text = stack.start()
    token = re.findall(r"token +(ls_\S+)", text)
    assert stack.roles(token[0]) == ("admin",)
    key = re.findall(r"key +(\S+),", text)
    assert KeyFile.read(Path(key[0])).name == "trainer"
    assert f"password {stack.files['grafana-password'].read_text()}\n" in text
    scrape = stack.files["scrape-token"].read_text()
    assert stack.roles(scrape) == ("read",)
    password = stack.files["postgres-password"].read_text()
    assert stack.files["pgpass"].read_text() == f"*:*:*:*:{password}\n"
    assert scrape not in text
    assert password not in text


def test_a_container_of_another_user_can_read_its_secret_and_libpq_its_own(stack: Stack) -> None:
    stack.start()
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in stack.files.items()}
    assert modes == dict.fromkeys(FILES, 0o444) | {"pgpass": 0o600}


def test_later_starts_make_and_print_nothing(stack: Stack) -> None:
    stack.start()
    before = {path: path.read_text() for path in stack.files.values()}
    known = stack.keyring.credentials()
    assert stack.start() == "Keys and tokens were made at an earlier start.\n"
    assert {path: path.read_text() for path in stack.files.values()} == before
    assert stack.keyring.credentials() == known


def test_what_was_revoked_is_not_made_again(stack: Stack) -> None:
    stack.start()
    stack.keyring.revoke("owner")
    stack.keyring.revoke("trainer")
    stack.start()
    good = [one.name for one in stack.keyring.credentials() if not one.revoked]
    assert good == ["prometheus"]


def test_a_scrape_token_whose_file_is_gone_is_replaced(stack: Stack) -> None:
    stack.start()
    old = stack.files["scrape-token"].read_text()
    stack.files["scrape-token"].unlink()
    stack.start()
    assert stack.roles(stack.files["scrape-token"].read_text()) == ("read",)
    assert stack.roles(old) == ()


def test_after_the_restore_of_another_home_prometheus_and_the_store_get_in(stack: Stack) -> None:
    stack.start()
    server = stack.files["postgres-password"].read_text()
    shutil.rmtree(keys_folder(stack.home))
    stack.keyring.new_token("prometheus", ["read"])
    stack.keyring.new_token("owner", ["admin"])
    stack.files["pgpass"].chmod(0o600)
    stack.files["pgpass"].write_text("*:*:*:*:of the other server\n")
    stack.start()
    assert stack.roles(stack.files["scrape-token"].read_text()) == ("read",)
    assert stack.files["pgpass"].read_text() == f"*:*:*:*:{server}\n"


def test_a_start_that_was_killed_while_it_wrote_is_repeated(stack: Stack) -> None:
    for path in stack.files.values():
        path.with_name(f".{path.name}").write_text("half of")
    stack.start()
    assert all(path.is_file() for path in stack.files.values())


def test_a_folder_that_cannot_be_written_is_one_sentence(
    stack: Stack, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "token"
    assert first_start.main([f"--scrape-token={missing}"]) == 1
    assert capsys.readouterr().err.startswith("lineside: ")
