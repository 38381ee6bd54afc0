"""What the manager keeps: attempts, and which callbacks are not done with them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.protocol.events import RANK_0, Stream
from lineside.subscribers.callback_host.worker_spec import READER, WorkerSpec, state_path
from lineside.subscribers.state.subscriber_state import RETENTION_SECONDS, SubscriberState

OPEN, SILENT, DONE = "open", "silent", "done"
"""States of a job: to be worked on, waiting for the run's next event, over."""


@dataclass(frozen=True)
class Attempt:
    """An attempt as its ``run_start`` describes it; its first event is behind ``offset``."""

    run: str
    attempt: str
    journal: str | None
    offset: int
    name: str = ""
    project: str = ""
    taken_over: tuple[str, ...] = ()

    @classmethod
    def of_facts(
        cls, stream: Stream, facts: Mapping[str, Any], journal: str | None, offset: int
    ) -> Attempt:
        """The attempt whose ``run_start`` has these ``facts``."""
        name, project = str(facts.get("name") or ""), str(facts.get("project") or "")
        taken_over = facts.get("taken_over")
        handed_over = tuple(map(str, taken_over)) if isinstance(taken_over, (list, tuple)) else ()
        return cls(stream.run, stream.attempt, journal, offset, name, project, handed_over)


@dataclass(frozen=True)
class Job:
    """A callback's work on an attempt; its process has handled rank 0's events before
    ``next_seq``."""

    entry: str
    run: str
    attempt: str
    state: str = OPEN
    next_seq: int = 0


class EntryStart(NamedTuple):
    """The end of the journal, and the time, when the host first had an entry."""

    journal: str | None
    offset: int
    time: float


class HostState(SubscriberState):
    """The manager's file; it also holds what the manager is to publish."""

    tables = (
        SubscriberState.tables
        + """
CREATE TABLE IF NOT EXISTS attempts (
    run TEXT NOT NULL, attempt TEXT NOT NULL, journal TEXT, start INTEGER NOT NULL,
    name TEXT NOT NULL, project TEXT NOT NULL, taken_over TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (run, attempt)
);
CREATE TABLE IF NOT EXISTS jobs (
    entry TEXT NOT NULL, run TEXT NOT NULL, attempt TEXT NOT NULL, state TEXT NOT NULL,
    next_seq INTEGER NOT NULL, time REAL NOT NULL, PRIMARY KEY (entry, run, attempt)
);
CREATE TABLE IF NOT EXISTS entries (
    entry TEXT PRIMARY KEY, journal TEXT, start INTEGER NOT NULL, time REAL NOT NULL
);
"""
    )
    owner = "a callback host runs on this home already"

    @classmethod
    def of_home(cls, home: Path) -> HostState:
        """The file in ``home``."""
        return cls(home / "subscribers" / f"{READER}.1.db")

    def attempts(self) -> list[Attempt]:
        """All attempts that are kept."""
        rows = self.fetch(
            "SELECT run, attempt, journal, start, name, project, taken_over FROM attempts"
        )
        return [
            Attempt(run, attempt, journal, start, name, project, tuple(json.loads(taken_over)))
            for run, attempt, journal, start, name, project, taken_over in rows
        ]

    def jobs(self) -> list[Job]:
        """All jobs that are kept."""
        rows = self.fetch("SELECT entry, run, attempt, state, next_seq FROM jobs")
        return [Job(*row) for row in rows]

    def entries(self) -> dict[str, EntryStart]:
        """Where each entry begins."""
        rows = self.fetch("SELECT entry, journal, start, time FROM entries")
        return {entry: EntryStart(*rest) for entry, *rest in rows}

    def save_entry(self, entry: str, start: EntryStart) -> None:
        """Keep where an entry begins."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", (entry, *start))

    def save_attempt(self, one: Attempt) -> None:
        """Keep an attempt, or its place in another journal."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    one.run,
                    one.attempt,
                    one.journal,
                    one.offset,
                    one.name,
                    one.project,
                    json.dumps(one.taken_over),
                    time.time(),
                ),
            )

    def save_job(self, one: Job) -> None:
        """Keep how far a job is."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)",
                (one.entry, one.run, one.attempt, one.state, one.next_seq, time.time()),
            )

    def prune(self, now: float | None = None) -> None:
        super().prune(now)
        cutoff = (time.time() if now is None else now) - RETENTION_SECONDS
        with self.transaction() as db:
            db.execute("DELETE FROM jobs WHERE time<?", (cutoff,))
            db.execute(
                "DELETE FROM attempts WHERE time<? AND NOT EXISTS (SELECT 1 FROM jobs WHERE"
                " jobs.run=attempts.run AND jobs.attempt=attempts.attempt)",
                (cutoff,),
            )


def saved_place(spec: WorkerSpec) -> tuple[int, bool]:
    """How many of the attempt's events an ended process has handled, and whether it closed it."""
    state_file = SubscriberState(state_path(Path(spec.folder)))
    try:
        saved = state_file.load(spec.run)
    finally:
        state_file.close()
    is_closed = saved.state.get("attempt") == spec.attempt and bool(saved.state.get("closed"))
    return saved.next_seqs.get(Stream(spec.run, RANK_0, spec.attempt), 0), is_closed
