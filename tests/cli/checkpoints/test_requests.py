"""``lineside pin``, ``unpin`` and ``delete``: requests on the bus, and what answers them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.bus.protocol.messages import LIVE
from lineside.bus.testing import BrokerProcess, Producer
from tests.cli.checkpoints.archives import ATTEMPT, RUN, archive_checkpoint, checkpoint
from tests.cli.homes import Home
from tests.support.forked import ForkedCommand
from tests.support.waiting import DEADLINE


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as it:
        yield it


@pytest.fixture
def url(tmp_path: Path) -> Path:
    """An archive with a checkpoint of step 300."""
    archive_checkpoint(tmp_path / "archive", checkpoint(tmp_path, 300), 300)
    return tmp_path / "archive"


@contextmanager
def answering(broker: BrokerProcess, refused: str | None) -> Iterator[list[Mapping[str, Any]]]:
    """Answer each request as the archiver does, after a state that answers none; the requests."""
    seen: list[Mapping[str, Any]] = []
    is_ready, is_done = threading.Event(), threading.Event()

    def answer() -> None:
        stream = Stream(RUN, "archiver", new_attempt())
        reader = Reader(broker.address, start=LIVE, streams=[f"{RUN}/control"])
        with reader, Producer(broker.address, stream) as archiver:
            reader.wait_connected(DEADLINE)
            is_ready.set()
            while not is_done.is_set():
                batch = reader.poll(0.1)
                for event in batch.events if batch else ():
                    if event.kind == "checkpoint_request" and event.data is not None:
                        seen.append(event.data)
                        names = ("checkpoint", "attempt", "step")
                        state = {name: event.data[name] for name in names} | {"state": "archived"}
                        answer = {"request": event.data["id"], "refused": refused}
                        archiver.emit("checkpoint_state", data=state)
                        archiver.emit("checkpoint_state", data=state | answer)
                        archiver.flush()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        assert is_ready.wait(DEADLINE)
        yield seen
    finally:
        is_done.set()
        thread.join()


def request(home: Home, broker: BrokerProcess, *words: str) -> tuple[int, str, str]:
    done = home.lineside(*words, env={"LINESIDE_BROKER": broker.address})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["pin"], "pinned"),
        (["unpin"], "unpinned"),
        (["delete", "--yes"], "deleted from the archive"),
    ],
)
def test_a_request_is_sent_and_its_answer_is_reported(
    home: Home, broker: BrokerProcess, url: Path, words: list[str], answer: str
) -> None:
    op, *options = words
    with answering(broker, None) as requests:
        command = (op, RUN, "--step", "300", "--archive", str(url), *options)
        assert request(home, broker, *command) == (0, f"step 300 of {RUN}: {answer}\n", "")
    (seen,) = requests
    assert (seen["op"], seen["attempt"], seen["step"]) == (op, ATTEMPT, 300)
    assert seen["checkpoint"].endswith("/checkpoint-300")
    assert "@" in seen["issuer"]


def test_a_refusal_is_the_error_and_its_reason_is_in_the_json(
    home: Home, broker: BrokerProcess, url: Path
) -> None:
    command = ("delete", RUN, "--step", "300", "--yes", "--archive", str(url))
    with answering(broker, "it is pinned"):
        text = request(home, broker, *command)
        code, out, _ = request(home, broker, *command, "--json")
    refusal = f"lineside: step 300 of {RUN} was not deleted from the archive: it is pinned\n"
    assert text == (1, "", refusal)
    document = json.loads(out)
    assert (code, document["state"], document["why"]) == (1, "refused", "it is pinned")


def test_without_waiting_the_request_is_in_the_journal(
    home: Home, broker: BrokerProcess, url: Path
) -> None:
    command = ("pin", RUN, "--step", "300", "--no-wait", "--archive", str(url))
    assert request(home, broker, *command) == (0, f"step 300 of {RUN}: pin is requested\n", "")


def test_delete_asks_on_a_terminal_and_does_nothing_elsewhere_without_yes(
    home: Home, broker: BrokerProcess, url: Path
) -> None:
    command = ("delete", RUN, "--step", "300", "--archive", str(url))
    code, out, error = request(home, broker, *command)
    assert (code, out) == (2, "")
    assert error == "lineside: delete asks first, and stdin is no terminal: --yes does not ask\n"

    with answering(broker, None) as requests:
        assert on_terminal(home, broker, *command, typed="n") == (1, "")
        assert requests == []
        deleted = f"step 300 of {RUN}: deleted from the archive\n"
        assert on_terminal(home, broker, *command, typed="y") == (0, deleted)
        assert [one["op"] for one in requests] == ["delete"]


def on_terminal(
    home: Home, broker: BrokerProcess, *words: str, typed: str
) -> tuple[int | None, str]:
    """The exit code and stdout of a command into which a person types a line."""
    person, terminal = pty.openpty()
    try:
        command = ForkedCommand(
            [sys.executable, "-m", "lineside.cli", *words],
            env=home.environment({"LINESIDE_BROKER": broker.address}),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(person, f"{typed}\n".encode())
        out, error = command.communicate(timeout=DEADLINE)
    finally:
        os.close(person)
        os.close(terminal)
    assert "Delete step 300" in error
    return command.returncode, out
