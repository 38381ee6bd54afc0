"""Processes that emit, and what they write down of it themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.emitter.spool.status_page import ACKED_SEQ, NEXT_SEQ, StatusPage
from tests.faults.accounts import NotedEvent
from tests.support.processes import Child, environment
from tests.support.waiting import wait_until


class Line(NamedTuple):
    """What a producer wrote down of one event once its hook had returned."""

    kind: str
    step: int
    at_ns: int
    took_ns: int


class Producer(Child):
    """A process that emits as ``run`` and writes down in ``told`` what it emitted."""

    def __init__(
        self, home: Path, run: str, command: Sequence[str], env: Mapping[str, str], *, fork: bool
    ) -> None:
        super().__init__(command, environment(home, **env), home / f"{run}.log", fork=fork)
        self.run = run
        self.noted = notes_file(home, run)
        self.spool = Path(env.get("LINESIDE_SPOOL", str(home / "spool")))
        self._stop = stop_file(home, run)

    def lines(self) -> list[Line]:
        """What it wrote down so far."""
        return read_lines(self.noted)

    def items(self) -> list[NotedEvent]:
        """The events among it, as kinds and steps."""
        return [(line.kind, line.step) for line in self.lines() if line.kind in LIFECYCLE_KINDS]

    def fields(self) -> list[int]:
        """Its rank 0's page, of the newest attempt; all 0 before there is one."""
        folders = sorted((self.spool / self.run / "rank0").glob("[!.]*"))
        page = StatusPage.open(folders[-1]) if folders else None
        if page is None:
            return [0] * 64
        fields = list(page.fields)
        page.close()
        return fields

    def wait_noted(self, count: int) -> None:
        """Return once it wrote down ``count`` more events."""
        size = len(self.lines()) + count
        wait_until(lambda: len(self.lines()) >= size, f"{self.run} emits")

    def wait_flowing(self) -> None:
        """Return once the broker has events that were emitted after this call."""
        now = self.fields()[NEXT_SEQ]
        wait_until(lambda: self.fields()[ACKED_SEQ] > now, f"events of {self.run} reach the broker")

    def finish(self) -> int:
        """Tell it to stop; its exit code."""
        self._stop.touch()
        return self.wait()


def notes_file(home: Path, run: str) -> Path:
    """Where the producer of ``run`` writes down its events."""
    return home / f"{run}.told"


def stop_file(home: Path, run: str) -> Path:
    """What ends the producer of ``run`` when it appears."""
    return home / f"{run}.stop"


def read_lines(noted: Path) -> list[Line]:
    """The whole lines of a producer's notes."""
    text = noted.read_text() if noted.exists() else ""
    split = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [Line(kind, int(step), int(at), int(took)) for kind, step, at, took in split]
