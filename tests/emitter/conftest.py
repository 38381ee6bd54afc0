"""A home of its own for each test, whose spool no shipper will take, and writers of spools."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol import wire
from lineside.bus.protocol.commands import PRODUCER
from lineside.bus.protocol.events import Event
from lineside.emitter.spool.spool import SpoolWriter
from lineside.emitter.training import exit as ending
from lineside.emitter.training import notice
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
    """LINESIDE_HOME. Somebody else holds the shipper's lock and ships nothing, nobody waits."""
    folder = tmp_path / "home"
    (folder / "spool").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("LINESIDE_HOME", str(folder))
    monkeypatch.setattr(ending._ending, "budget", 0.0)
    monkeypatch.setattr(notice, "_said", set())
    holder = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _HOLD_LOCK, str(folder / "spool" / "shipper.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield folder
        for run in list(ending._ending.open):
            run.close("exit")
        ending._ending.left.clear()
        holder.kill()


@pytest.fixture
def spooled(home: Path) -> ReadSpool:
    """``spooled()``: the events of every rank's stream in the home's spool, oldest first."""
    return lambda: read_spool(home / "spool")


@pytest.fixture
def answered(home: Path) -> ReadSpool:
    """``answered()``: the same of the streams in which commands are answered."""
    return lambda: read_spool(home / "spool", PRODUCER)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where ``make`` makes its spools."""
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
    """Every stream of ``producer`` under ``root``, its events in the order they lie there."""
    streams = {}
    for folder in sorted(root.glob(f"*/{producer}/*/"), key=lambda path: path.name):
        events = []
        for segment in sorted(folder.glob("*.seg")):
            events += [wire.decode_event(body) for body in wire.bodies(segment.read_bytes())]
        streams[str(folder.relative_to(root))] = events
    return streams
