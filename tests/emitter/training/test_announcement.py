"""One line states which run begins, and where it is seen or kept."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineside.bus.local_stack import UP_FILE
from lineside.emitter import LinesideCallback, start_run
from tests.emitter.training.loops import script
from tests.support.tiny_trainer import trainer

PAGE = "http://127.0.0.1:7431"


@pytest.fixture
def broker(home: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "bus.sock"))
        listener.listen()
        yield


@pytest.fixture
def page(home: Path, broker: None) -> None:
    status = {"pid": os.getpid(), "broker": f"ipc://{home}/bus.sock", "dashboard": PAGE}
    (home / UP_FILE).write_text(json.dumps(status))


def test_without_a_broker_a_training_names_the_spool_and_what_helps(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(tmp_path, LinesideCallback(name="My run", run_id="mine"), max_steps=1)
    made.train()
    made.train()
    assert capsys.readouterr().err == (
        f"lineside: My run (mine): no broker at ipc://{home}/bus.sock; events are kept in "
        f"{home}/spool until one runs: lineside up\n"
    )


def test_an_address_that_cannot_be_used_is_named_once_with_its_remedy(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = f"ipc:///{'x' * 120}"
    monkeypatch.setenv("LINESIDE_BROKER", broker)
    done = script(home, "start_run().finish()\nstart_run()", wait_at_exit=True)
    assert done.returncode == 0
    assert done.stderr == (
        f"lineside: events are kept in {home}/spool: broker address '{broker}' cannot be used: "
        "its path has 121 bytes and a Unix socket takes 107; set LINESIDE_BROKER or LINESIDE_HOME "
        f"to a shorter one, then `lineside ship --spool {home}/spool` sends them\n"
    )


def test_with_a_stack_the_line_has_the_address_of_the_page(
    page: None, capsys: pytest.CaptureFixture[str]
) -> None:
    start_run("two\nlines", run_id="mine")
    start_run(run_id="other")
    assert capsys.readouterr().err == (
        f"lineside: two\\nlines (mine): {PAGE}/runs/mine\nlineside: other: {PAGE}/runs/other\n"
    )


def test_a_broker_without_a_known_page_is_named_without_its_key(
    home: Path, broker: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_run(run_id="here")
    monkeypatch.setenv("LINESIDE_BROKER", "tcp://192.0.2.1:7430?key=/node7.key")
    start_run(run_id="there")
    here, there = capsys.readouterr().err.splitlines()
    assert here == f"lineside: here: its events go to ipc://{home}/bus.sock"
    assert there == "lineside: there: its events go to tcp://192.0.2.1:7430"


def test_a_quiet_training_and_other_ranks_print_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LINESIDE_QUIET", "1")
        start_run()
    monkeypatch.setenv("RANK", "1")
    start_run(run_id="mine")
    assert capsys.readouterr().err == ""


def test_a_notebook_shows_a_link(
    page: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Any] = []
    kernel = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    library = SimpleNamespace(HTML=lambda text: text, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", library)
    start_run("<b>", run_id="mine")
    assert shown == [f'lineside: <a href="{PAGE}/runs/mine">&lt;b&gt; (mine)</a>']
    assert capsys.readouterr().err == ""
