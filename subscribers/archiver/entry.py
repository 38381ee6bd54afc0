"""What the archiver knows of each checkpoint of a run, in the run's durable state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lineside.bus.protocol.checkpoints import (
    ARCHIVED,
    COPYING,
    CORRUPT,
    DELETED,
    EVICTED,
    FAILED,
    IN_ARCHIVE,
    INCOMPLETE,
    SKIPPED,
    WAITING,
)
from lineside.subscribers.archiver.policy import KnownCheckpoint

OPEN = frozenset({WAITING, COPYING, FAILED})
"""The states of a checkpoint that is still to be copied."""
GIVEN_UP = frozenset({INCOMPLETE, EVICTED, SKIPPED, DELETED})
"""The states of a checkpoint that the archive does not have and will not get."""
MAX_STATE_BYTES = 256 << 10
"""Bytes of JSON of all checkpoints of a run: some 600. It is written with every change of one."""
MAX_METRICS = 32
_USUAL_BYTES = 512
_FEW = 64  # after so many new checkpoints the size is looked at


@dataclass
class Entry:
    """A checkpoint, identified by attempt, step and path; the newest save of it counts.

    - ``saves`` counts its saves, ``number`` is its place in its attempt, from 1; ``turn``
      is that of its latest save among all saves of the attempt.
    - ``hold`` is the folder of links, removed once it is archived or given up; ``is_held`` whether
      training has passed it on.
    - ``is_whole`` is whether all its files were there when it was looked at, from ``ready_at`` on.
    - ``is_begun`` is whether parts of it may be in the archive before it is whole there.
    - ``is_found`` is whether the archive had it and the state did not: it was lost, or is forgotten
      after 60 days, and with it whether a person pinned it.
    - ``key`` is its manifest's key while the archive has it, of an earlier save too.
    """

    attempt: str
    step: int
    path: str
    time: float
    epoch: float | None = None
    saves: int = 1
    number: int = 0
    turn: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    hold: str | None = None
    is_held: bool = False
    is_whole: bool = False
    state: str = WAITING
    why: str | None = None
    retry_at: float | None = None
    ready_at: float = 0.0
    incomplete_since: float | None = None
    tries: int = 0
    is_begun: bool = False
    bytes: int = 0
    files: int = 0
    done: int = 0
    sent: int = 0
    stored: int = 0
    key: str | None = None
    pinned: bool = False
    is_found: bool = False
    best: bool = False
    last: bool = False
    keep: list[str] = field(default_factory=list)

    @property
    def id(self) -> tuple[str, int, str]:
        return (self.attempt, self.step, self.path)

    @property
    def order(self) -> tuple[str, int, float, int]:
        """Sorts by the order of saving; see ``KnownCheckpoint``."""
        return (self.attempt, self.turn, self.time, self.step)

    @property
    def is_open(self) -> bool:
        """Whether it is still to be copied."""
        return self.state in OPEN

    @property
    def is_to_be_deleted(self) -> bool:
        """Whether the archive has it, and the policy does not keep it."""
        return self.key is not None and not self.keep and not self.is_open

    def known(self, *, is_resumed_from: bool) -> KnownCheckpoint:
        """It as the policy takes it."""
        return KnownCheckpoint(
            self.attempt,
            self.step,
            self.path,
            self.time,
            self.metrics,
            is_archived=self.key is not None and not self.is_open,
            is_whole=self.is_whole and self.state != CORRUPT,
            is_pinned=self.pinned,
            is_resumed_from=is_resumed_from,
            number=self.number,
            turn=self.turn,
        )

    def give_up(self, state: str, why: str) -> None:
        """It will not be copied, for the reason ``why``; an earlier save may be in the archive."""
        self.state, self.why, self.retry_at = state, why, None
        if self.key is not None and state in (EVICTED, INCOMPLETE):
            self.state, self.why, self.is_whole = ARCHIVED, f"an earlier save of it: {why}", True

    def event_data(self, address: str | None) -> dict[str, Any]:
        """The data of ``checkpoint_state``; ``address`` is that of its manifest."""
        return {
            "checkpoint": self.path,
            "attempt": self.attempt,
            "step": self.step,
            "state": self.state,
            "why": self.why,
            "retry_at": self.retry_at,
            "bytes": self.bytes,
            "done": self.done,
            "sent": self.sent,
            "stored": self.stored,
            "files": self.files,
            "archive": address,
            "metrics": dict(self.metrics),
            "pinned": self.pinned,
            "best": self.best,
            "last": self.last,
            "keep": list(self.keep),
        }


_FIELDS = frozenset(one.name for one in fields(Entry))


class Entries:
    """The checkpoints in ``state``, the durable state of a run: a change of one is one there."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._saved: list[dict[str, Any]] = state.setdefault("checkpoints", [])
        self.all = [
            Entry(**{name: value for name, value in saved.items() if name in _FIELDS})
            for saved in self._saved
        ]
        self._saved[:] = map(vars, self.all)
        self._by_id = {entry.id: entry for entry in self.all}

    def is_of(self, state: dict[str, Any]) -> bool:
        """Whether these are the checkpoints of ``state`` still: it may have been reset."""
        return state.get("checkpoints") is self._saved

    def find(self, attempt: str, step: int, path: str) -> Entry | None:
        return self._by_id.get((attempt, step, path))

    def add(self, entry: Entry) -> Entry:
        """Add ``entry``; of too many the oldest that were given up go."""
        self.all.append(entry)
        self._saved.append(vars(entry))
        self._by_id[entry.id] = entry
        if len(self.all) % _FEW == 0:
            self._trim()
        return entry

    @property
    def room(self) -> int:
        """How many checkpoints of a usual size may be added before old ones have to go."""
        return max(0, MAX_STATE_BYTES - sum(self._sizes().values())) // _USUAL_BYTES

    def at_path(self, path: str) -> list[Entry]:
        """The checkpoints that were saved at ``path``: of several attempts."""
        return [entry for entry in self.all if entry.path == path]

    def _trim(self) -> None:
        sizes = self._sizes()
        excess = sum(sizes.values()) - MAX_STATE_BYTES
        # Of those that are archived the archive itself has a list.
        for states in (GIVEN_UP, IN_ARCHIVE, OPEN):
            for entry in list(self.all):
                if excess > 0 and entry.state in states and not (entry.pinned or entry.hold):
                    excess -= sizes[entry.id]
                    self.all.remove(entry)
                    del self._by_id[entry.id]
        self._saved[:] = map(vars, self.all)

    def _sizes(self) -> dict[tuple[str, int, str], int]:
        return {entry.id: len(json.dumps(vars(entry))) for entry in self.all}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers in ``values``, as metrics of a checkpoint: so many at most."""
    found: dict[str, float] = {}
    for name, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and abs(value) < float("inf") and len(name) <= 200:
            found[name] = value
        if len(found) == MAX_METRICS:
            break
    return found
