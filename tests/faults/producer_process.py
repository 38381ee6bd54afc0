"""Processes that emit, and their own notes of what they emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.emitter.spool.status_page import ACKED_SEQ, NEXT_SEQ
from tests.emitter.spool.spools import PageOnDisk
from tests.faults.accounts import NotedEvent
from tests.support.processes import Child, environment
from tests.support.waiting import wait_until


class Line(NamedTuple):
    """A producer's note of one event whose hook has returned."""

    kind: str
    step: int
    at_ns: int
    took_ns: int


class Producer(Child):
    """A process that emits as ``run`` and notes its events in the file ``noted``."""

    def __init__(
        self, home: Path, run: str, command: Sequence[str], env: Mapping[str, str], *, fork: bool
    ) -> None:
        super().__init__(command, environment(home, **env), home / f"{run}.log", fork=fork)
        self.run = run
        self.noted = notes_file(home, run)
        self.spool = Path(env.get("LINESIDE_SPOOL", str(home / "spool")))
        self._stop = stop_file(home, run)

    def lines(self) -> list[Line]:
        """Its notes so far."""
        return read_lines(self.noted)

    def items(self) -> list[NotedEvent]:
        """The noted events."""
        return [(line.kind, line.step) for line in self.lines() if line.kind in LIFECYCLE_KINDS]

    def fields(self) -> list[int]:
        """The page of its rank 0's newest attempt; all 0 before there is one."""
        pages = sorted((self.spool / self.run / "rank0").glob("[!.]*/page"))
        return list(PageOnDisk(pages[-1].parent).fields) if pages else [0] * 64

    def wait_noted(self, count: int) -> None:
        """Wait until it has noted ``count`` more events."""
        size = len(self.lines()) + count
        wait_until(lambda: len(self.lines()) >= size, f"{self.run} emits")

    def wait_flowing(self) -> None:
        """Wait until the broker has events that were emitted after this call."""
        now = self.fields()[NEXT_SEQ]
        wait_until(lambda: self.fields()[ACKED_SEQ] > now, f"events of {self.run} reach the broker")

    def finish(self) -> int:
        """Stop it; its exit code."""
        self._stop.touch()
        return self.wait()


def notes_file(home: Path, run: str) -> Path:
    """The file for the notes of the producer of ``run``."""
    return home / f"{run}.notes"


def stop_file(home: Path, run: str) -> Path:
    """The file that ends the producer of ``run`` when it appears."""
    return home / f"{run}.stop"


def read_lines(noted: Path) -> list[Line]:
    """The whole lines of a producer's notes."""
    text = noted.read_text() if noted.exists() else ""
    split = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [Line(kind, int(step), int(at), int(took)) for kind, step, at, took in split]
