"""What the manager hands to the process of a callback, and how that process ends."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lineside.bus.errors import UsageError

READER = "callback-host"
"""The durable name of the manager at the broker; those of callbacks lie below it."""
DONE, UNUSABLE, STOPPED, SUSPENDED = 0, 4, 5, 6
"""Exit codes: the attempt is over; the callback cannot be used as configured; its ``on_error`` is
``stop``; the process ends before the attempt does. Any other code is a crash."""
BUS, RECORDED = "bus", "stdin"
_MAX_NAME = 257  # of a durable name, in characters


@dataclass(frozen=True)
class WorkerSpec:
    """One callback for one attempt of a run.

    ``entry`` is as ``parse_entry`` takes it, and ``index`` its place in the configuration. The
    attempt's first event lies behind ``offset`` of ``journal``. ``folder`` is the callback's own
    for this run. ``source`` is ``BUS``, or ``RECORDED`` where the events of a recorded run follow.
    """

    entry: dict[str, Any]
    run: str
    attempt: str
    broker: str
    folder: str
    journal: str | None = None
    offset: int = 0
    source: str = BUS
    index: int = 0

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> WorkerSpec:
        """The spec in a line.

        Raises:
            UsageError: another version of Lineside wrote it.
        """
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"the callback host sent {line!r:.200} ({error}): expected a line of its own "
                "version; install the same Lineside in both environments"
            ) from None


def callback_folder(home: Path, entry: str, run: str) -> Path:
    """The private folder of a callback and run."""
    return home / "callbacks" / entry / run


def state_path(folder: Path) -> Path:
    """The state file in a callback's folder."""
    return folder / "state.1.db"


def reader_name(entry: str, run: str) -> str:
    """The durable name of a callback and run at the broker."""
    name = f"{READER}/{entry}/{run}"
    if len(name) > _MAX_NAME:
        name = f"{READER}/{hashlib.sha256(name.encode()).hexdigest()}"
    return name
