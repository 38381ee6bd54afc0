"""The protocol page agrees with the code, and a reader written from it alone works."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from lineside.bus.broker import service, subscription, subscriptions
from lineside.bus.broker.storage.journal import FORGOTTEN as NONE
from lineside.bus.client import producer, reader
from lineside.bus.protocol import addresses, limits, messages
from lineside.bus.protocol.commands import COMMAND, OPS, PAUSE_SECONDS, STATE_OF_KIND, Command
from lineside.bus.protocol.event_kinds import KINDS
from lineside.bus.protocol.events import CONTROL_BITS, Stream
from lineside.bus.settings import Settings
from lineside.bus.testing import Producer
from lineside.store.status.liveness import DISCONNECT_SECONDS
from tests.bus.conftest import BrokerThread

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "bus" / "PROTOCOL.md").read_text()
EXAMPLE = ROOT / "examples" / "plain_reader.py"


def section(number: int) -> str:
    [text] = re.findall(rf"^## {number}\. .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def rows(text: str) -> dict[str, str]:
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if "|" in line]
    return {row[0].replace("`", ""): row[1] for row in cells}


def test_the_page_names_every_verb_with_its_arguments() -> None:
    listed = rows(section(6))
    kinds = (
        messages.Hi,
        messages.Put,
        messages.Ack,
        messages.GapMessage,
        messages.Sub,
        messages.Evt,
        messages.Cur,
        messages.Who,
    )
    for kind in kinds:
        arguments = [argument.split(":")[0] for argument in listed[kind.VERB.decode()].split(", ")]
        assert arguments == [field.name for field in fields(kind)]


def test_the_page_names_every_status_and_start() -> None:
    for word in (messages.OK, messages.FULL, messages.DENIED, messages.HOLE, messages.INVALID):
        assert f"| `{word}` |" in section(6)
    for word in (messages.CURSOR, messages.START, messages.LIVE, messages.OFFSET):
        assert f"- `{word}`:" in section(6)


def test_the_page_has_the_sizes_and_times_of_the_code() -> None:
    table = rows(section(8))
    mib = 1 << 20
    waiting, window = messages.MAX_WAITING // mib, producer._WINDOW_BYTES // mib
    expected = {
        "body of a record": f"{limits.MAX_RECORD // mib} MiB, {limits.MAX_CONTAINERS} maps and "
        f"lists, `data` {limits.MAX_DEPTH} deep",
        "blob of a PUT": f"{messages.MAX_BLOB / mib:g} MiB, {messages.MAX_RECORDS} records",
        "message to the broker, all frames together": f"{messages.MAX_MESSAGE // mib} MiB, "
        f"{messages.MAX_FRAMES} frames",
        "what a network connection has sent and the broker not taken": f"{waiting} MiB: beyond it "
        "the connection is cut",
        "PUTs without an ACK": f"{producer._WINDOW}, of {window} MiB together (advice)",
        "facts of a HI, and any text": f"{messages.MAX_TEXT >> 10} KiB",
        "silence before a producer connects anew": f"{producer._SILENCE_SECONDS:g} s",
        "silence before a reader connects anew": f"{reader.SILENCE_SECONDS:g} s",
        "silence after which the broker forgets a connection": f"{service._SILENT_SECONDS:g} s",
        "patterns of a SUB": f"{messages.MAX_PATTERNS} of {messages.MAX_PATTERN} characters, "
        "and all in one message",
        "credit": f"64 (advice), {subscription.MAX_CREDIT} at most",
        "deliveries under way to one reader": f"{subscription.MAX_IN_FLIGHT // mib} MiB; "
        f"{subscription.MIN_IN_FLIGHT >> 10} KiB while {subscription.MAX_TOTAL // mib} MiB "
        "are under way to all",
        "lag at which a live reader is skipped": f"{subscriptions.LIVE_LAG} entries",
    }
    assert {what: table[what] for what in expected} == expected
    assert messages.MAX_FACTS == messages.MAX_TEXT
    assert f"{addresses.IPC_PATH_MAX} bytes" in section(2)
    assert f"up to {subscriptions.NAME_MAX} printable" in section(6)


def test_the_page_has_a_word_for_every_control_bit() -> None:
    words = [
        name.removeprefix("should_").replace("training_stop", "stop training")
        for name in CONTROL_BITS
    ]
    words = [word.replace("epoch_stop", "stop epoch") for word in words]
    listed = ", ".join(f"{1 << bit} {word}" for bit, word in enumerate(words))
    assert listed in section(5)


def test_the_page_lists_every_command_and_every_answer() -> None:
    table = rows(section(12))
    assert {op for row in table for op in row.split(", ")} >= OPS.keys()
    for op, arguments in OPS.items():
        cell = next(cell for row, cell in table.items() if op in row.split(", "))
        assert re.findall(r"`(\w+)`:", cell) == list(arguments), op
    assert table.keys() >= STATE_OF_KIND.keys() - {COMMAND}
    assert table.keys() >= Command("stop").to_data().keys() - {"reason", "issued_by"}
    assert f"({PAUSE_SECONDS:g})" in section(12)


def test_the_page_names_only_kinds_that_exist() -> None:
    kinds = {kind for row in rows(section(11)) for kind in row.split(", ") if kind != "kind"}
    assert {kind for kind in kinds if kind.strip("-")} <= KINDS.keys()
    assert f"for {DISCONNECT_SECONDS:g} s" in section(11)


def test_the_example_is_short_and_imports_nothing_of_ours() -> None:
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) < 100
    modules = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert modules - set(sys.stdlib_module_names) == {"msgpack", "zmq"}


class Example:
    """The example in a process of its own; its lines as they come."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), *arguments], stdout=subprocess.PIPE, text=True
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def lines(self, count: int, timeout: float = 20.0) -> list[dict[str, Any]]:
        until = time.monotonic() + timeout
        found: list[dict[str, Any]] = []
        while len(found) < count:
            try:
                found.append(json.loads(self._lines.get(timeout=until - time.monotonic())))
            except (Empty, ValueError) as error:
                raise AssertionError(f"{len(found)} of {count}: {found[-3:]}") from error
        return found

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def example(settings: Settings) -> Iterator[Callable[..., Example]]:
    running: list[Example] = []

    def start(*arguments: str) -> Example:
        running.append(Example(settings.broker, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.end()


def test_the_example_prints_every_event_and_every_gap(
    start_broker: Callable[..., BrokerThread], settings: Settings, example: Callable[..., Example]
) -> None:
    broker_thread = start_broker()
    with Producer(settings.broker, "run/rank0/a") as ours:
        for step in range(100):
            ours.emit("log", step=step, data={"logs": {"loss": step / 2}})
        ours.skip(7)
        ours.emit("train_end")
        ours.flush()
    broker_thread.stop()
    with sqlite3.connect(settings.journal) as journal:
        [blob] = journal.execute("SELECT blob FROM entries WHERE offset = 1").fetchone()
        blob = bytearray(blob)
        blob[20] ^= 0xFF  # in the first record
        journal.execute("UPDATE entries SET blob = ? WHERE offset = 1", (bytes(blob),))
    journal.close()
    start_broker()
    lines = example().lines(102)
    assert lines[0] == {"stream": "run/rank0/a", "missing": [0, 1]}
    assert [line.get("seq") for line in lines[1:]] == [*range(1, 100), None, 107]
    assert lines[100] == {"stream": "run/rank0/a", "missing": [100, 107]}
    assert (lines[50]["kind"], lines[50]["data"]) == ("log", {"logs": {"loss": 25.0}})


def test_the_example_filters_and_goes_on_where_it_was(
    start_broker: Callable[..., BrokerThread], settings: Settings, example: Callable[..., Example]
) -> None:
    broker_thread = start_broker()
    with (
        Producer(settings.broker, "run/rank0/a") as ours,
        Producer(settings.broker, "x/y/z") as other,
    ):
        other.emit("log")
        other.flush()
        for _ in range(64):
            ours.emit("log")
        ours.flush()
        first = example("--name", "plain", "--stream", "run")
        assert [line["seq"] for line in first.lines(64)] == list(range(64))
        until = time.monotonic() + 10
        while broker_thread.broker._journal.cursors().get("plain", NONE).offset != 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        first.end()
        ours.emit("log")
        ours.flush()
        second = example("--name", "plain", "--stream", "run")
        assert [line["seq"] for line in second.lines(1)] == [64]


def test_the_example_goes_on_over_a_restart_and_over_a_new_journal(
    start_broker: Callable[..., BrokerThread], settings: Settings, example: Callable[..., Example]
) -> None:
    broker_thread = start_broker()
    with Producer(settings.broker, "run/rank0/a") as ours:
        running = example()
        ours.emit("log")
        ours.flush()
        assert [line["seq"] for line in running.lines(1)] == [0]
        broker_thread.stop()
        broker_thread = start_broker()
        ours.emit("log")
        ours.flush()
        assert [line["seq"] for line in running.lines(1)] == [1]
    broker_thread.stop()
    for path in settings.home.glob("journal.db*"):
        path.unlink()
    start_broker()
    with Producer(settings.broker, "new/rank0/a") as ours:
        ours.emit("log")
        ours.flush()
    [line] = running.lines(1)
    assert (line["stream"], line["offset"]) == (str(Stream("new", "rank0", "a")), 1)


def test_the_example_ends_when_its_name_is_taken(
    start_broker: Callable[..., BrokerThread], settings: Settings, example: Callable[..., Example]
) -> None:
    broker_thread = start_broker()
    first = example("--name", "plain")
    until = time.monotonic() + 20
    while "plain" not in broker_thread.broker._subscriptions.connected_names:
        assert time.monotonic() < until
        time.sleep(0.05)
    example("--name", "plain")
    assert first.process.wait(20) == 1
