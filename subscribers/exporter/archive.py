"""What the exporter counts of a run's checkpoints on their way into the archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from lineside.bus.protocol.checkpoints import (
    ARCHIVED,
    EVICTED,
    HELD,
    IN_ARCHIVE,
    STATES,
    TO_ARCHIVE,
    VERIFIED,
)
from lineside.bus.protocol.fields import is_int64
from lineside.store.recording.event_context import EventContext, optional_text
from lineside.subscribers.exporter.histogram import ARCHIVE_BUCKETS, Histogram

ARCHIVE_STATES = (HELD, *STATES)
"""Every state that a checkpoint has for the archive."""
_WHOLE = (ARCHIVED, VERIFIED)
MAX_CHECKPOINTS = 10_000
"""Checkpoints of one run that are counted: those that are seen first."""


@dataclass(slots=True)
class CheckpointCopy:
    """A checkpoint as the archiver last reported it. ``held_at`` is None if no hold was seen."""

    state: str
    step: int
    held_at: float | None
    size: int = 0
    sent: int = 0


@dataclass(slots=True)
class ArchiveRecord:
    """The checkpoints of a run by attempt, step and path, in the order they were held.

    ``sent`` are the bytes that went into the archive, ``seconds`` the times that checkpoints took
    from their save until they were there, ``last_at`` is when the last one was. ``heard_at`` is
    when the newest event was published.
    """

    copies: dict[tuple[str, int, str], CheckpointCopy] = field(default_factory=dict)
    sent: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(ARCHIVE_BUCKETS))
    last_at: float | None = None
    heard_at: float = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint is yet to be archived."""
        return any(copy.state in TO_ARCHIVE for copy in self.copies.values())

    @property
    def last_step(self) -> int | None:
        """The step of the newest checkpoint that is whole in the archive."""
        whole = (copy.step for copy in reversed(self.copies.values()) if copy.state in _WHOLE)
        return next(whole, None)

    def states(self) -> dict[str, tuple[int, int]]:
        """For each state how many checkpoints have it, and their bytes; empty if none was held."""
        if not self.copies:
            return {}
        counts, sizes = Counter[str](), Counter[str]()
        for copy in self.copies.values():
            counts[copy.state] += 1
            sizes[copy.state] += copy.size
        return {state: (counts[state], sizes[state]) for state in ARCHIVE_STATES}

    def read_held(self, context: EventContext) -> None:
        """Take in a ``checkpoint_held`` event: a new checkpoint, or a new save of a known one."""
        event, data, attempt = context.event, context.data, context.stream.attempt
        path = optional_text(data, "checkpoint")
        evicted = data.get("evicted")
        gone = [
            (one.get("step"), one.get("checkpoint"))
            for one in (evicted if isinstance(evicted, (list, tuple)) else ())
            if isinstance(one, Mapping)
        ]
        for (_, step, other), known in self.copies.items():
            if (step, other) in gone and known.state in TO_ARCHIVE:
                known.state = EVICTED
        key = (attempt, event.step, path or "")
        if path is None or not self._has_place(key):
            return
        self.heard_at = event.time
        self.copies.pop(key, None)
        self.copies[key] = CheckpointCopy(HELD, event.step, event.time, _bytes(data, "bytes"))

    def read_state(self, context: EventContext) -> None:
        """Take in a ``checkpoint_state`` or ``checkpoint_progress`` event."""
        event, data = context.event, context.data
        path, state = optional_text(data, "checkpoint"), optional_text(data, "state")
        step = data.get("step")
        step = step if is_int64(step) else event.step
        key = (optional_text(data, "attempt") or "", step, path or "")
        if path is None or state not in STATES or not self._has_place(key):
            return
        self.heard_at = event.time
        copy = self.copies.setdefault(key, CheckpointCopy(HELD, step, None))
        was_there, copy.state = copy.state in IN_ARCHIVE, state
        copy.size = _bytes(data, "bytes") or copy.size
        sent = _bytes(data, "sent")
        # A copy that begins again counts from 0.
        self.sent += sent - copy.sent if sent >= copy.sent else sent
        copy.sent = sent
        if state in _WHOLE and not was_there:
            self.last_at = event.time
            if copy.held_at is not None:
                self.seconds.observe(max(0.0, event.time - copy.held_at))

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {
            "copies": [[*key, *astuple(copy)] for key, copy in self.copies.items()],
            "sent": self.sent,
            "seconds": self.seconds.to_dict(),
            "last_at": self.last_at,
            "heard_at": self.heard_at,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ArchiveRecord:
        """The inverse of ``to_dict``."""
        copies = {
            (attempt, step, path): CheckpointCopy(*values)
            for attempt, step, path, *values in saved["copies"]
        }
        seconds = Histogram.from_dict(saved["seconds"], ARCHIVE_BUCKETS)
        return cls(copies, saved["sent"], seconds, saved["last_at"], saved["heard_at"])

    def _has_place(self, key: tuple[str, int, str]) -> bool:
        return key in self.copies or len(self.copies) < MAX_CHECKPOINTS


def _bytes(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    return value if is_int64(value) and value > 0 else 0
