"""The checkpoints on a run's page: their states in the archive, and what a person can ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lineside.bus.auth.roles import CONTROL, Principal
from lineside.bus.protocol import checkpoints as bus
from lineside.dashboard import formatting
from lineside.dashboard.auth.caller import denial_reason
from lineside.store.history.checkpoints import Checkpoint, main_metric
from lineside.store.history.records import Run

TONES = {
    bus.COPYING: "active",
    bus.ARCHIVED: "clear",
    bus.VERIFIED: "clear",
    bus.FAILED: "caution",
    bus.INCOMPLETE: "caution",
    bus.EVICTED: "caution",
    bus.CORRUPT: "danger",
}
"""The tone of each state that has one."""
_MEANINGS = {**bus.STATES, bus.HELD: "training holds its files until the archiver has them"}
_PINNABLE = frozenset({bus.HELD, bus.WAITING, bus.COPYING, bus.FAILED}) | bus.IN_ARCHIVE
_MAX_METRICS = 20  # in the title


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint as shown. ``ops`` are what a person can ask of the archiver now."""

    record: Checkpoint
    offset: str
    metric: str
    metrics: str
    size: str
    state: str
    meaning: str
    tone: str
    percent: int | None
    notes: tuple[str, ...]
    ops: tuple[str, ...]


def panel(
    run: Run, found: Sequence[Checkpoint], principal: Principal | None, no_download: str
) -> dict[str, Any]:
    """What ``run_checkpoints.html`` shows; ``no_download`` is why nothing can be downloaded."""
    return {
        "checkpoints": [checkpoint_row(run, saved) for saved in reversed(found)],
        "has_archive": any(saved.state is not None or saved.why for saved in found),
        "archived": sum(saved.is_archived for saved in found),
        "no_request": denial_reason(principal, "Asking the archiver", CONTROL),
        "no_download": no_download,
    }


def checkpoint_row(run: Run, saved: Checkpoint) -> CheckpointRow:
    """The row of a checkpoint of ``run``."""
    shown = main_metric(saved.metrics)
    percent = None if saved.copied is None else int(100 * saved.copied)
    state = saved.state or "not archived"
    return CheckpointRow(
        record=saved,
        offset=formatting.offset((saved.time - run.started_at).total_seconds()),
        metric=f"{shown[0]} {formatting.number(shown[1])}" if shown else "",
        metrics=", ".join(
            f"{name} {formatting.number(value)}"
            for name, value in list(saved.metrics.items())[:_MAX_METRICS]
        ),
        size="" if saved.bytes is None else formatting.size(saved.bytes),
        state=state if percent is None else f"{state} {percent} %",
        meaning=_MEANINGS.get(state, ""),
        tone=TONES.get(state, ""),
        percent=percent,
        notes=tuple(_notes(saved)),
        ops=_ops(saved),
    )


def _notes(saved: Checkpoint) -> list[str]:
    notes = [saved.why] if saved.why else []
    if saved.state == bus.COPYING and saved.bytes is not None:
        notes.append(f"{formatting.size(saved.done or 0)} of {formatting.size(saved.bytes)}")
    if saved.retry_at is not None:
        notes.append(f"tried again at {saved.retry_at:%Y-%m-%d %H:%M:%S} UTC")
    if saved.requested is not None:
        who = saved.requested_by or formatting.UNKNOWN_ISSUER
        notes.append(f"{who} asked to {saved.requested} it; the archiver has not answered yet")
    if saved.refused is not None:
        notes.append(f"not done as asked: {saved.refused}")
    return notes


def _ops(saved: Checkpoint) -> tuple[str, ...]:
    if saved.requested is not None or saved.state not in _PINNABLE:
        return ()
    pin = bus.UNPIN if saved.pinned else bus.PIN
    return (pin, bus.VERIFY, bus.DELETE) if saved.is_archived else (pin,)
