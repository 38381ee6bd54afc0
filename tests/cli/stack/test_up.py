"""``lineside up`` with real processes and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import time
from pathlib import Path

import httpx
import pytest

from lineside.bus.checkpoints.hold import HoldLimits, read_limits, write_limits
from lineside.bus.client.reader import Reader
from lineside.bus.local_stack import read_status
from lineside.cli.stack.home_lock import is_held
from lineside.cli.stack.http_probe import get_json, http_problem
from lineside.emitter.spool.sidecar_process import shipper_pid
from tests.cli.homes import RUN_ID, Home
from tests.support.waiting import wait_until


def children(pid: int) -> dict[str, int]:
    """The processes that ``pid`` supervises, by command."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        argv = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        if "lineside.cli" in argv:
            found[argv[argv.index("lineside.cli") + 1]] = int(child)
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_up_prints_addresses_that_answer(home: Home) -> None:
    process, page = home.up("--archive", str(home.path / "archive"))
    broker = process.until(r"broker +(ipc://\S+)\n")
    process.until(rf"archive {home.path}/archive\n")
    assert http_problem(f"{page}/readyz") is None
    with Reader(broker) as reader:
        reader.wait_connected(5)
    assert get_json(page)[0] == 200
    assert sorted(children(process.pid)) == [
        "archiver",
        "broker",
        "callback-host",
        "dashboard",
        "recorder",
        "sampler",
        "watchdog",
    ]
    assert f": {page}/runs/{RUN_ID}\n" in home.train(), "training prints the page of its run"
    assert read_limits(home.path) is not None, "trainings hold their checkpoints"


def test_up_runs_no_python_file_of_the_folder_it_is_started_in(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    home.up("--quiet")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it_in_a_few_seconds(
    home: Home, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    home.path.mkdir(mode=0o700, exist_ok=True)
    write_limits(home.path, HoldLimits())
    process, page = home.up()
    assert read_limits(home.path) is None, "there is no archive any more"
    pids = list(children(process.pid).values())
    began = time.monotonic()
    process.send(number)
    assert process.wait() == 0
    assert time.monotonic() - began < 10
    assert all(gone(pid) for pid in pids)
    assert "Traceback" not in process.out
    assert not is_held(home.path)
    with manager:  # systemd's place
        assert manager.recv(1000).decode() == f"READY=1\nSTATUS=page {page}"
        assert manager.recv(1000) == b"STOPPING=1"


def test_a_killed_process_is_restarted_and_counted(home: Home) -> None:
    process, page = home.up("--quiet")
    for name in ("broker", "recorder", "dashboard"):
        os.kill(children(process.pid)[name], signal.SIGKILL)
        process.until(rf"{name} ended \(SIGKILL\), next start in 0.5 s")
        process.until(rf"{name} started again, once so far")
    wait_until(lambda: http_problem(f"{page}/readyz") is None, "readiness on the same port")
    status = read_status(home.path)
    assert status is not None
    once, never = ("broker", "recorder", "dashboard"), ("sampler", "watchdog", "callback-host")
    assert status["restarts"] == {**dict.fromkeys(once, 1), **dict.fromkeys(never, 0)}
    doctor = home.lineside("doctor").stdout
    assert "restarted the broker once, the recorder once, the dashboard once" in doctor


def test_a_process_killed_before_the_stack_is_ready_is_restarted(home: Home) -> None:
    process = home.start("up", "--port", "0")
    wait_until(lambda: "recorder" in children(process.pid), "the recorder is started")
    os.kill(children(process.pid)["recorder"], signal.SIGKILL)
    process.until(r"recorder ended \(SIGKILL\), next start in 0.5 s")
    process.until(r"Ctrl-C ends it")


def test_up_records_a_training_that_ran_without_a_broker(home: Home) -> None:
    home.train()
    _end_shipper(home)  # as a reboot would
    process, page = home.up("--quiet")
    process.until(r"a shipper now sends [\d,]+ events of \d streams? left in \S+/spool")
    wait_until(
        lambda: get_json(f"{page}/api/runs/{RUN_ID}")[1].get("status") == "finished",
        "the run is recorded to its end",
    )


def _end_shipper(home: Home) -> None:
    pid = shipper_pid(home.path / "spool")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: shipper_pid(home.path / "spool") is None, "the shipper has ended")


def test_a_frozen_process_does_not_delay_the_end_of_up(home: Home) -> None:
    process, _ = home.up("--quiet")
    broker = children(process.pid)["broker"]
    os.kill(broker, signal.SIGSTOP)
    process.send(signal.SIGTERM)
    assert process.wait(15) == 0
    assert gone(broker)


def test_nothing_outlives_an_up_that_was_killed(home: Home) -> None:
    process, _ = home.up("--quiet")
    pids = list(children(process.pid).values())
    process.send(signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(gone(pid) for pid in pids), "the end of what it supervised")


def test_log_lines_are_kept_and_shown_with_their_process(home: Home) -> None:
    process, _ = home.up()
    process.until(r"broker    \| \S+ INFO broker: listening at ")
    process.until(r"recorder  \| \S+ INFO recorder: started")
    assert "broker: listening" in (home.path / "logs" / "broker.log").read_text()


def test_a_second_up_on_the_same_home_names_the_first(home: Home) -> None:
    process, page = home.up("--quiet")
    second = home.lineside("up", "--port", "0")
    assert second.returncode == 1
    assert f"process {process.pid} runs the stack there, its page is {page}" in second.stderr
    assert second.stderr.count("\n") == 1


def test_up_does_not_replace_a_broker_that_already_runs(home: Home) -> None:
    broker = home.start("broker")
    broker.until("listening at")
    up = home.lineside("up", "--port", "0")
    assert up.returncode == 1
    assert f"process {broker.pid} listens there" in up.stderr


def test_a_port_in_use_is_reported_before_anything_starts(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = home.lineside("up", "--port", str(port))
    assert up.returncode == 1
    assert re.fullmatch(rf"lineside: .*127\.0\.0\.1:{port} is already in use.*\n", up.stderr)
    assert not (home.path / "journal.db").exists()


def test_a_store_from_a_newer_version_is_reported_with_the_recorders_message(
    home: Home,
) -> None:
    process, _ = home.up("--quiet")
    process.send(signal.SIGTERM)
    process.wait()
    with sqlite3.connect(home.path / "store.db") as store:
        store.execute("UPDATE lineside_version SET version_num = '9999'")
    store.close()
    up = home.lineside("up", "--port", "0", "--quiet")
    assert up.returncode == 1
    assert "newer than this Lineside knows" in up.stderr
    assert "Traceback" not in up.stderr


def test_up_replaces_a_damaged_store_and_doctor_and_page_name_the_old_file(home: Home) -> None:
    (home.path).mkdir(mode=0o700)
    (home.path / "store.db").write_bytes(b"no database" * 1000)
    process, page = home.up()
    process.until(r"file is not a database.*; it is now .*store\.db\.damaged-")
    (aside,) = home.path.glob("store.db.damaged-*")
    found = json.loads(home.lineside("doctor", "--json").stdout)["checks"]
    details = {check["subject"]: check["detail"] for check in found}
    assert str(aside) in details["damaged store"]
    assert str(aside) in httpx.get(page).text


def test_a_damaged_journal_is_named_with_the_way_out(home: Home) -> None:
    (home.path).mkdir(mode=0o700)
    journal = home.path / "journal.db"
    journal.write_bytes(b"no database" * 1000)
    up = home.lineside("up", "--port", "0", "--quiet")
    assert up.returncode == 1
    assert f"the journal {journal} is damaged" in up.stderr
    checks = json.loads(home.lineside("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["subject"] == "journal"]
    assert found["state"] == "fail"
    assert found["hint"] == f"mv {journal} {journal}.damaged, then start `lineside up` again"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"LINESIDE_BROKER": "nonsense"}, "expected ipc:///absolute/path/to/bus.sock"),
        ({"LINESIDE_BROKER": "tcp://127.0.0.1:7430"}, "start it there with --listen"),
        ({"LINESIDE_HOME": "/proc/no/where"}, "it cannot be made"),
        ({"LINESIDE_HOME": "here"}, "expected an absolute path"),
        ({"LINESIDE_HOME": "/home/" + "x" * 120}, "a Unix socket takes 107"),
        ({"LINESIDE_STORE": "mysql://me:secret@there/db"}, "expected an SQLAlchemy URL"),
    ],
)
def test_an_invalid_setting_is_one_sentence_and_code_2(
    home: Home, settings: dict[str, str], sentence: str
) -> None:
    up = home.lineside("up", "--port", "0", "--quiet", env=settings)
    assert up.returncode == 2
    assert sentence in up.stderr
    assert up.stderr.startswith("lineside: ")
    assert up.stderr.count("\n") == 1
    assert "secret" not in up.stderr


def test_up_listens_on_loopback_only(home: Home) -> None:
    up = home.lineside("up", "--host", "192.0.2.1", "--port", "0")
    assert up.returncode == 2
    assert "is not this machine's loopback address" in up.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens",), "--tokens: no token exists; make one"),
        (
            ("--listen", "tcp://127.0.0.1:0"),
            "--listen='tcp://127.0.0.1:0' cannot be used: no client",
        ),
    ],
)
def test_up_listens_to_other_machines_only_once_a_key_exists(
    home: Home, options: tuple[str, ...], message: str
) -> None:
    up = home.lineside("up", "--port", "0", *options)
    assert up.returncode == 2
    assert up.stderr.startswith(f"lineside: {message}")
    assert up.stderr.count("\n") == 1


def test_a_password_in_the_stores_address_is_not_shown() -> None:
    from lineside.cli.stack.up_service import without_password

    shown = without_password("postgresql://me:secret@db.example/lineside")
    assert shown == "postgresql://me:***@db.example/lineside"
    assert without_password("sqlite:////home/me/store.db") == "sqlite:////home/me/store.db"


def test_doctor_finds_a_working_stack_in_order(home: Home) -> None:
    home.up("--quiet")
    found = home.lineside("doctor", "--json")
    assert found.returncode == 0
    report = json.loads(found.stdout)
    assert report["ok"] is True
    states = {check["subject"]: check["state"] for check in report["checks"]}
    for subject in ("python", "packages", "home", "broker", "store", "recorder", "dashboard"):
        assert states[subject] == "ok"
