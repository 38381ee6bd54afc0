"""``lineside keys`` and the access that its keys give, by the real command."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest

from lineside.bus.testing import read_all
from tests.cli.commands.test_doctor import report
from tests.cli.homes import Home
from tests.support.ports import free_port
from tests.support.waiting import wait_until


def made(home: Home, *arguments: str) -> dict[str, str]:
    done = home.lineside("keys", "new", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_key_is_made_listed_and_revoked(home: Home) -> None:
    done = home.lineside("keys", "new", "node7", "--role", "emit", "--runs", "nlp-*")
    assert done.returncode == 0
    file = home.path / "keys" / "node7.key"
    assert done.stdout == f"{file}\n"  # and nothing else, for KEY=$(lineside keys new ...)
    assert "LINESIDE_KEY=" in done.stderr
    token = made(home, "eyes", "--role", "read", "--role", "control", "--token")["token"]
    assert token.startswith("ls_")
    for path in (home.path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert token not in path.read_text()
    assert stat.S_IMODE((home.path / "keys").stat().st_mode) == 0o700

    assert home.lineside("keys", "revoke", "node7").stdout == "key node7 is revoked\n"
    assert not file.exists()
    header, first, second = home.lineside("keys", "list").stdout.splitlines()
    assert header.split() == ["name", "what", "roles", "runs", "made", "state"]
    assert first.split()[:4] == ["node7", "key", "emit", "nlp-*"]
    assert "revoked" in first
    assert second.split()[:5] == ["eyes", "token", "read,", "control", "all"]
    assert second.endswith("good")
    items = json.loads(home.lineside("keys", "list", "--json").stdout)["items"]
    assert [item["revoked"] is None for item in items] == [False, True]
    assert "proof" not in items[0]


def test_a_new_token_is_alone_on_standard_output(home: Home) -> None:
    done = home.lineside("keys", "new", "phone", "--role", "read", "--token")
    assert re.fullmatch(r"ls_\S+\n", done.stdout)
    assert "shown only now" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("new",), "NAME is missing"),
        (("revoke",), "NAME is missing"),
        (("revoke", "nobody"), "no active key or token has this name"),
        (("new", "a"), "it needs a role: expected emit, read, control, annotate, admin"),
        (("new", "a", "--role", "root"), "no role is called 'root': expected emit"),
        (("new", "a", "--role", "emit", "--runs", ""), "no run matches '': expected an id, or a"),
        (("new", "a", "--role", "emit", "--runs", "a/b"), "no run matches 'a/b': expected an id"),
        (("new", "../a", "--role", "emit"), "expected 1 to 64 of A-Z"),
        (("new", "broker", "--role", "emit"), "and not broker"),
        (("new", "a", "--role", "emit", "--token"), "emit is for keys"),
        (("new", "a", "--role", "annotate", "--token"), "annotate is for keys"),
        (("new", "rank0", "--role", "annotate"), "give a key with the role annotate another name"),
        (("new", "a", "--role", "read", "--token", "--runs", "x"), "a token covers every run"),
    ],
)
def test_a_usage_error_is_one_sentence(home: Home, arguments: tuple[str, ...], why: str) -> None:
    done = home.lineside("keys", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("lineside: ")
    assert why in done.stderr


def test_an_unreadable_list_is_an_error_and_not_an_empty_list(home: Home) -> None:
    made(home, "a", "--role", "emit")
    (home.path / "keys" / "list.json").write_text("{")
    done = home.lineside("keys", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the list of keys=" in done.stderr
    assert "restore a copy" in done.stderr


def test_a_name_in_use_is_not_given_twice(home: Home) -> None:
    made(home, "a", "--role", "emit")
    done = home.lineside("keys", "new", "a", "--role", "read", "--token")
    assert done.returncode == 2
    assert "it is in use; `lineside keys revoke a` frees it" in done.stderr


def test_a_stack_listens_for_keys_and_doctor_checks_them(home: Home, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    refused = home.lineside("up", "--listen", address, "--port", "0")
    assert refused.returncode == 2
    assert "lineside keys new NAME --role emit" in refused.stderr

    reads = made(home, "eyes", "--role", "read")["file"]
    emits = made(home, "node7", "--role", "emit")["file"]
    kept = tmp_path / "kept.key"
    kept.write_bytes(Path(made(home, "gone", "--role", "read")["file"]).read_bytes())
    kept.chmod(0o600)
    home.lineside("keys", "revoke", "gone")
    process, _ = home.up("--quiet", "--listen", address)
    process.until(rf"broker +ipc://\S+, with a key {address}")

    far = {"LINESIDE_HOME": str(tmp_path / "far"), "LINESIDE_BROKER": address}
    assert (
        "with key 'eyes', its journal is at"
        in report(home, LINESIDE_KEY=reads, **far)["broker"]["detail"]
    )
    emitting = report(home, LINESIDE_KEY=emits, **far)
    assert {name for name, check in emitting.items() if check["state"] == "fail"} == set()
    assert emitting["broker"]["state"] == "ok"
    assert emitting["store"]["detail"] == "on the broker's machine, and so is the page"
    assert "dashboard" not in emitting
    report_of = report(
        home, LINESIDE_KEY=emits, LINESIDE_STORE=f"sqlite:///{tmp_path}/no.db", **far
    )
    assert (report_of["store"]["state"], "dashboard" in report_of) == ("fail", True)
    wrong = report(home, LINESIDE_KEY=str(kept), **far)["broker"]
    assert wrong["state"] == "fail"
    assert "not in the broker's list, or was revoked" in wrong["detail"]
    assert "lineside keys new" in wrong["hint"]
    none = report(home, **far)["broker"]
    assert none["state"] == "fail"
    assert "set LINESIDE_KEY" in none["detail"]
    kept.chmod(0o644)
    assert f"chmod 600 {kept}" in report(home, LINESIDE_KEY=str(kept), **far)["broker"]["detail"]
    kept.unlink()
    assert "cannot be read" in report(home, LINESIDE_KEY=str(kept), **far)["broker"]["detail"]

    noted = read_all(f"ipc://{home.path}/bus.sock", ["audit"], until=bool)
    assert {(event.data or {})["who"] for event in noted} == {"gone"}

    stop = home.lineside(
        "stop", "some-run", "--ahead", "--no-wait", env=far | {"LINESIDE_KEY": reads}
    )
    assert stop.returncode == 1
    assert "takes the role emit: key 'eyes' has read" in stop.stderr


@pytest.mark.parametrize("packages", ["all", "none of the extra server"])
def test_a_machine_without_a_store_controls_a_training(
    home: Home, tmp_path: Path, packages: str
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    key = made(home, "pilot", "--role", "control")["file"]
    home.start("broker", "--listen", address).until("listening at .* and tcp")
    far = {
        "LINESIDE_HOME": str(tmp_path / "far"),
        "LINESIDE_BROKER": address,
        "LINESIDE_KEY": key,
    }
    if packages != "all":
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        code = "import sys\nsys.modules['sqlalchemy'] = sys.modules['fastapi'] = None\n"
        (hidden / "sitecustomize.py").write_text(code)
        far["PYTHONPATH"] = str(hidden)
        home.popen = subprocess.Popen  # a forked one has them loaded
    sent = home.lineside("save", "my-run", "--expires", "1", env=far)
    assert sent.returncode == 1
    assert sent.stdout == "save: requested\n"
    assert sent.stderr.splitlines() == [
        "'my-run' cannot be looked up on this machine: taken as a run's id",
        "lineside: save: run my-run has not answered in time; "
        "`lineside audit --run my-run` shows a later one",
    ]
    [event] = read_all(f"ipc://{home.path}/bus.sock", ["my-run/control"], until=bool)
    assert (event.data or {})["op"] == "save"
    for no_id in ("latest", "a b"):
        refused = home.lineside("save", no_id, env=far)
        assert refused.returncode == 2
        assert refused.stderr.endswith(f"; or give the whole id of a run instead of '{no_id}'\n")
        assert ("package sqlalchemy" in refused.stderr) == (packages != "all")


def test_a_revoked_key_is_refused_without_a_restart(home: Home) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    reads = made(home, "eyes", "--role", "read")["file"]
    home.start("broker", "--listen", address).until("listening at .* and tcp")
    far = {"LINESIDE_BROKER": address, "LINESIDE_KEY": reads}
    tail = home.start("tail", env=far)
    wait_until(lambda: report(home, **far)["broker"]["state"] == "ok")
    home.lineside("keys", "revoke", "eyes")
    assert tail.wait() == 1
    assert "its key was revoked" in tail.out
