"""Broker and page of this machine are known at once, and only while they are there."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from lineside.bus.local_stack import UP_FILE, broker_listens, page_address
from lineside.bus.settings import Settings

NO_PID = 2**22 + 1  # above Linux's largest


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"LINESIDE_HOME": str(tmp_path)})


def test_a_broker_listens_while_its_socket_does(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    address = f"ipc://{path}"
    assert broker_listens(address) is False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert broker_listens(address) is False
        listener.listen(1)
        answers = [broker_listens(address) for _ in range(5)]
    assert answers == [True] * 5, "also while more clients wait than it takes"
    assert path.exists()
    assert broker_listens(address) is False


def test_a_broker_on_a_network_is_not_asked(tmp_path: Path) -> None:
    assert broker_listens("tcp://192.0.2.1:7430?key=/k") is None
    assert broker_listens(f"ipc://{tmp_path}/{'x' * 120}") is False


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "http://127.0.0.1:7431"),
        ({"pid": NO_PID}, None),
        ({"pid": 0}, None),
        ({"broker": "ipc:///other"}, None),
        ({"dashboard": ""}, None),
        ({"dashboard": None}, None),
    ],
)
def test_the_page_is_that_of_the_running_stack(
    settings: Settings, changes: dict[str, object], expected: str | None
) -> None:
    status = {"pid": os.getpid(), "broker": settings.broker, "dashboard": "http://127.0.0.1:7431"}
    (settings.home / UP_FILE).write_text(json.dumps(status | changes))
    assert page_address(settings) == expected


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_without_a_status_no_page_is_known(settings: Settings, text: str | None) -> None:
    if text is not None:
        (settings.home / UP_FILE).write_text(text)
    assert page_address(settings) is None
