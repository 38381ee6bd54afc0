"""A home for each test, whose spool no shipper takes, and writers of spools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol import wire
from lineside.bus.protocol.commands import CONTROL_PRODUCER
from lineside.bus.protocol.events import Event
from lineside.emitter.spool.writer import SpoolWriter
from lineside.emitter.training import console, shutdown
from tests.emitter.launch.launched import Launched
from tests.emitter.shipping import Bench
from tests.emitter.spool.spools import STREAM, MakeWriter

_HOLD_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""

ReadSpool = Callable[[], dict[str, list[Event]]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """LINESIDE_HOME. A process holds the shipper's lock and ships nothing; no exit waits."""
    folder = tmp_path / "home"
    (folder / "spool").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("LINESIDE_HOME", str(folder))
    monkeypatch.setattr(shutdown._state, "budget", 0.0)
    monkeypatch.setattr(console, "_printed", set())
    monkeypatch.setattr(console, "_announced", set())
    holder = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _HOLD_LOCK, str(folder / "spool" / "shipper.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield folder
        for run in list(shutdown._state.open):
            run.close("exit")
        shutdown._state.pending.clear()
        holder.kill()


@pytest.fixture
def spool_events(home: Path) -> ReadSpool:
    """``spool_events()``: the events of every rank's stream in the home's spool, oldest first."""
    return lambda: read_spool(home / "spool")


@pytest.fixture
def control_events(home: Path) -> ReadSpool:
    """``control_events()``: the same of control streams."""
    return lambda: read_spool(home / "spool", CONTROL_PRODUCER)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The spool directory of ``make``."""
    return tmp_path / "spool"


@pytest.fixture
def make(root: Path) -> Iterator[MakeWriter]:
    """``make(**options)``: a writer, closed when the test ends."""
    made: list[SpoolWriter] = []

    def writer(**options: Any) -> SpoolWriter:
        made.append(SpoolWriter(root, options.pop("stream", STREAM), **options))
        return made[-1]

    yield writer
    for one in made:
        one.close()


def read_spool(root: Path, producer: str = "rank*") -> dict[str, list[Event]]:
    """The events of every stream of ``producer`` under ``root``, in file order."""
    streams = {}
    for folder in sorted(root.glob(f"*/{producer}/*/"), key=lambda path: path.name):
        events = []
        for segment in sorted(folder.glob("*.seg")):
            events += [wire.decode_event(body) for body in wire.record_bodies(segment.read_bytes())]
        streams[str(folder.relative_to(root))] = events
    return streams


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


@pytest.fixture
def launched(bench: Bench) -> Iterator[Any]:
    """Starts a ``Launched``; its process group ends with the test."""
    started: list[Launched] = []

    def start(*command: str, tty: int | None = None, **env: str) -> Launched:
        started.append(Launched(bench.folder, bench.spool, bench.address, *command, tty=tty, **env))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.communicate()
