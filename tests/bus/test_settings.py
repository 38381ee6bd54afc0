"""Settings come from the environment, once, and errors name the variable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lineside.bus.errors import SettingsError
from lineside.bus.settings import Settings, make_private_folder


def test_an_empty_environment_has_everything_under_the_users_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = Settings.from_env({})
    assert settings.home == Path("/home/me/.local/state/lineside")
    assert settings.broker == "ipc:///home/me/.local/state/lineside/bus.sock"
    assert settings.spool == settings.home / "spool"
    assert settings.store == "sqlite:////home/me/.local/state/lineside/store.db"
    assert settings.journal == settings.home / "journal.db"
    assert (settings.run_id, settings.run_name, settings.project) == (None, None, None)
    assert not settings.disabled
    assert settings.stop_on_sigterm is None
    assert settings.hold_checkpoints is None
    assert Settings.from_env({"XDG_STATE_HOME": "/s"}).home == Path("/s/lineside")


def test_each_setting_has_its_variable() -> None:
    settings = Settings.from_env(
        {
            "LINESIDE_HOME": "/h",
            "LINESIDE_BROKER": "ipc:///b",
            "LINESIDE_SPOOL": "~/spool",
            "LINESIDE_STORE": "sqlite:///x",
            "LINESIDE_RUN_ID": "run-1",
            "LINESIDE_RUN_NAME": "a name",
            "LINESIDE_PROJECT": "p",
            "LINESIDE_TAGS": " a, b c,,",
            "LINESIDE_GROUP": "g",
            "LINESIDE_NOTES": "n",
            "LINESIDE_DISABLED": "yes",
            "LINESIDE_WAIT_FOR_STOPPER": "2.5",
            "LINESIDE_STOP_ON_SIGTERM": "no",
            "LINESIDE_HOLD_CHECKPOINTS": "1",
            "LINESIDE_QUIET": "1",
            "LINESIDE_SAMPLER": "0",
        }
    )
    assert settings == Settings(
        Path("/h"),
        "ipc:///b",
        Path("~/spool").expanduser(),
        "sqlite:///x",
        "run-1",
        "a name",
        "p",
        ("a", "b c"),
        "g",
        "n",
        True,
        wait_for_stopper=2.5,
        stop_on_sigterm=False,
        hold_checkpoints=True,
        quiet=True,
        sampler=False,
    )


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINESIDE_HOME", "/somewhere")
    assert Settings.from_env().home == Path("/somewhere")


@pytest.mark.parametrize("value", ["0", "false", "No", " off ", ""])
def test_off_has_many_spellings(value: str) -> None:
    assert not Settings.from_env({"LINESIDE_DISABLED": value}).disabled


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LINESIDE_HOME", "relative", "expected an absolute path"),
        ("LINESIDE_SPOOL", "./spool", "expected an absolute path"),
        ("LINESIDE_DISABLED", "perhaps", "expected 1 or 0"),
        ("LINESIDE_WAIT_FOR_STOPPER", "long", "expected seconds, 0 or more"),
        ("LINESIDE_WAIT_FOR_STOPPER", "inf", "expected seconds, 0 or more"),
        ("LINESIDE_RUN_ID", "a/b", "not beginning with"),
        ("LINESIDE_RUN_ID", "-x", "not beginning with"),
    ],
)
def test_the_error_of_an_invalid_value_names_its_variable(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError, match=expected) as error_info:
        Settings.from_env({name: value})
    assert (error_info.value.name, error_info.value.value, error_info.value.exit_code) == (
        name,
        value,
        2,
    )


def test_a_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    made = make_private_folder(tmp_path / "a" / "b")
    assert {path.stat().st_mode & 0o777 for path in (made.parent, made)} == {0o700}
    assert make_private_folder(made) == made


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be made"):
        make_private_folder(tmp_path / "file" / "home")


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the kernel's answer is given for it.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingsError, match="not writable; set LINESIDE_HOME"):
        make_private_folder(tmp_path)
