"""The file of one subscriber: states of its runs, and what it has yet to publish.

What a batch of events changed is one transaction: state, the number of the next event and
publications. So an event that is delivered again after a crash changes nothing a second time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.protocol.events import Stream, new_attempt
from lineside.subscribers.state.state_file import StateFile

RETENTION_SECONDS = 60 * 86_400.0
"""How long the state of a run is kept after its last change."""
_FORMAT = 1  # of the file
_STAYING = "SELECT run FROM runs WHERE json_extract(context, '$.stays')"
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, state TEXT NOT NULL, context TEXT NOT NULL, time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS next_seqs (
    stream TEXT PRIMARY KEY, run TEXT NOT NULL, seq INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS next_seqs_by_run ON next_seqs (run);
CREATE TABLE IF NOT EXISTS publications (
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, seq INTEGER, kind TEXT NOT NULL,
    step INTEGER NOT NULL, epoch REAL, time REAL NOT NULL, data TEXT
);
CREATE TABLE IF NOT EXISTS invalid AS SELECT *, '' AS why FROM publications WHERE 0;
CREATE TABLE IF NOT EXISTS identity (attempt TEXT NOT NULL);
"""


class Publication(NamedTuple):
    """An event to publish on ``stream``; ``time`` in seconds since the epoch."""

    stream: Stream
    kind: str
    step: int
    epoch: float | None
    time: float
    data: Mapping[str, Any] | None


class Pending(NamedTuple):
    """A publication in the file, with the ``seq`` it gets in its stream."""

    seq: int
    publication: Publication


@dataclass
class SavedRun:
    """What the file holds of a run."""

    state: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    next_seqs: dict[Stream, int] = field(default_factory=dict)


class SubscriberState(StateFile):
    """The states of a subscriber's runs in the file ``path``, or in memory without one."""

    tables = _TABLES
    owner = "a subscriber of this name runs on this home already"
    remedy = "free disk space, check its permissions, or move it away if it is damaged"

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        rows = self.fetch("SELECT attempt FROM identity")
        self.is_new = not rows
        """Whether no process has subscribed with the file before: see ``mark_used``."""
        self.attempt: str = rows[0][0] if rows else new_attempt()
        """The attempt of this file's control streams."""

    @classmethod
    def of(cls, home: Path, name: str) -> SubscriberState:
        """The file of the subscriber ``name`` in ``home``."""
        return cls(home / "subscribers" / f"{name}.{_FORMAT}.db")

    def mark_used(self) -> None:
        """The broker has a cursor for the file from here on."""
        if self.is_new:
            with self.transaction() as db:
                db.execute("INSERT INTO identity VALUES (?)", (self.attempt,))
            self.is_new = False

    def load(self, run: str) -> SavedRun:
        """What is kept of ``run``; empty if nothing is."""
        with self.transaction():
            rows = self.fetch("SELECT state, context FROM runs WHERE run=?", run)
            seqs = self.fetch("SELECT stream, seq FROM next_seqs WHERE run=?", run)
        saved = SavedRun(next_seqs={Stream.parse(stream): seq for stream, seq in seqs})
        for state, context in rows:
            saved.state, saved.context = json.loads(state), json.loads(context)
        return saved

    def staying(self) -> list[str]:
        """The runs that are to be in memory though no event of theirs comes."""
        return [run for (run,) in self.fetch(_STAYING)]

    def save(
        self,
        run: str,
        state: str,
        context: Mapping[str, Any],
        next_seqs: Mapping[Stream, int],
        publications: Sequence[Publication],
    ) -> None:
        """Keep all of it, or nothing; ``state`` is JSON."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (run, state, json.dumps(context), time.time()),
            )
            db.executemany(
                "INSERT OR REPLACE INTO next_seqs VALUES (?, ?, ?)",
                [(str(stream), run, seq) for stream, seq in next_seqs.items()],
            )
            _insert(db, publications)

    def publish(self, publication: Publication) -> None:
        """Keep what is to be published whatever becomes of the batch."""
        with self.transaction() as db:
            _insert(db, [publication])

    def pending_streams(self) -> list[Stream]:
        """Streams that have something to be published."""
        rows = self.fetch("SELECT stream FROM publications GROUP BY stream ORDER BY min(id)")
        return [Stream.parse(stream) for (stream,) in rows]

    def pending(self, stream: Stream, next_seq: int, limit: int) -> list[Pending]:
        """The first publications of ``stream``, numbered from ``next_seq``, the journal's next.

        Those the journal has are removed. The numbers are kept, so that what was sent before a
        crash is recognised by its number when the broker is asked again.
        """
        with self.transaction() as db:
            name = str(stream)
            db.execute("DELETE FROM publications WHERE stream=? AND seq<?", (name, next_seq))
            rows = db.execute(
                "SELECT id, kind, step, epoch, time, data FROM publications"
                " WHERE stream=? ORDER BY id LIMIT ?",
                (name, limit),
            ).fetchall()
            numbered = [(seq, row[0]) for seq, row in enumerate(rows, next_seq)]
            db.executemany("UPDATE publications SET seq=? WHERE id=?", numbered)
        return [
            Pending(
                seq,
                Publication(
                    stream, kind, step, epoch, at, None if data is None else json.loads(data)
                ),
            )
            for seq, (_, kind, step, epoch, at, data) in enumerate(rows, next_seq)
        ]

    def discard(self, stream: Stream) -> int:
        """Remove what was to be published on ``stream``; how many there were."""
        with self.transaction() as db:
            return db.execute("DELETE FROM publications WHERE stream=?", (str(stream),)).rowcount

    def set_aside(self, invalid: Pending, why: str) -> int:
        """Move what the broker cannot read out of the way; how many there are by now."""
        with self.transaction() as db:
            key = (str(invalid.publication.stream), invalid.seq)
            where = "FROM publications WHERE stream=? AND seq=?"
            db.execute(f"INSERT INTO invalid SELECT *, ? {where}", (why, *key))
            db.execute(f"DELETE {where}", key)
            [(count,)] = db.execute("SELECT count(*) FROM invalid").fetchall()
        return int(count)

    def prune(self, now: float | None = None) -> None:
        """Remove runs that did not change for ``RETENTION_SECONDS``."""
        cutoff = (time.time() if now is None else now) - RETENTION_SECONDS
        with self.transaction() as db:
            staying = {run for (run,) in db.execute(_STAYING)}
            rows = db.execute("SELECT run FROM runs WHERE time<?", (cutoff,)).fetchall()
            old = [(run,) for (run,) in rows if run not in staying]
            db.executemany("DELETE FROM next_seqs WHERE run=?", old)
            db.executemany("DELETE FROM runs WHERE run=?", old)


def _insert(db: sqlite3.Connection, publications: Sequence[Publication]) -> None:
    db.executemany(
        "INSERT INTO publications (stream, kind, step, epoch, time, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (str(p.stream), p.kind, p.step, p.epoch, p.time, json.dumps(p.data))
            for p in publications
        ],
    )
