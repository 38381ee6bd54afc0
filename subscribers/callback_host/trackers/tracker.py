"""The base of all trackers, and what the callback host hands them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from lineside.bus.protocol.events import Event

EndStatus: TypeAlias = Literal["finished", "failed", "stopped", "lost"]


@dataclass
class HostedRun:
    """One attempt of a run, as the callback's process has it."""

    id: str
    name: str
    project: str
    attempt: str
    facts: Mapping[str, Any]
    """The data of rank 0's ``run_start``."""
    started_at: float
    """When the run's first attempt began that this host has seen, in seconds since the epoch."""
    identity: dict[str, Any]
    """What identifies the run in the tracker, as JSON. The tracker changes it; it is kept after
    each event, and later processes and attempts of the run get it."""
    folder: Path
    """A private folder of this callback and run, which later attempts get too."""
    is_resumed: bool
    """Whether ``identity`` was kept by an earlier process."""
    is_backfill: bool
    """Whether the run is sent from its record, long after it ended."""


@dataclass
class HookCall:
    """A call of ``callback``'s method ``hook`` for ``event``, as the Trainer would make it."""

    hook: str
    event: Event
    args: Any
    state: Any
    control: Any
    keywords: dict[str, Any]
    callback: Any


@dataclass
class RunEnd:
    """How an attempt ended; ``error`` has ``type`` and ``message`` of what was raised."""

    status: EndStatus
    error: Mapping[str, Any] | None
    time: float


class Tracker:
    """What is particular to a tracker. This base adds nothing: a callback of the user has it.

    All methods are called in the main thread of the callback's process, one after another:
    ``environment``, construction of the callback, ``created``, for each hook ``before``, the call
    and ``after``, and ``close`` or ``suspend``.
    """

    name: ClassVar[str] = ""
    """Its short name, such as ``wandb``."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules that must be importable, such as ``("wandb",)``."""
    needs_torch: ClassVar[bool] = False
    """Whether the callback cannot do without torch; if not, torch is hidden from the process."""

    def __init__(self, run: HostedRun) -> None:
        self.run = run

    def environment(self) -> dict[str, str]:
        """Variables to set before the tracker's package is imported."""
        return {}

    def created(self, callback: Any) -> None:
        """The callback was made: wrap what must be wrapped."""

    def before(self, call: HookCall) -> bool:
        """Whether to make the call. ``call.keywords`` and ``call.args`` may be changed here."""
        return True

    def after(self, call: HookCall) -> None:
        """The hook returned: raise if what it sent is not with the tracker or on disk."""

    def is_delivery_error(self, error: Exception) -> bool:
        """Whether a later try of the same event can succeed, as after a refused connection."""
        return False

    def suspend(self, callback: Any) -> None:
        """This process ends before the attempt does: send what is pending, and close nothing."""

    def close(self, callback: Any, end: RunEnd) -> None:
        """Close the tracker's run with the status of ``end``; an exception has it tried again."""
