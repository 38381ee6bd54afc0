"""The checkpoints on a run's page: their states in the archive, and what a person can ask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
_MEANINGS = {
    **bus.STATES,
    bus.HELD: "training holds its files until the archiver has them",
}
_PINNABLE = frozenset({bus.HELD, bus.WAITING, bus.COPYING, bus.FAILED}) | bus.IN_ARCHIVE
_REPLACED = "replaced"
_MEANINGS[_REPLACED] = "saved again later at the same path and step"
_MAX_METRICS = 20  # in the title
_MAX_LISTED = 100
"""The newest checkpoints that are listed, beside the best and the pinned ones."""


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint as shown. ``ops`` are what a person can ask of the archiver now.

    ``attempt`` is the number of its attempt if the run has several.
    """

    record: Checkpoint
    attempt: int | None
    is_superseded: bool
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
    run: Run,
    found: Sequence[Checkpoint],
    principal: Principal | None,
    no_download: str,
    show_all: bool,
) -> dict[str, Any]:
    """What ``run_checkpoints.html`` shows; ``no_download`` is why nothing can be downloaded.

    ``checkpoints_digest`` is the same for the same content, which a live page need not get again.
    """
    newest = {saved.id: saved for saved in found}
    first = 0 if show_all else max(0, len(found) - _MAX_LISTED)
    listed = [
        (number, checkpoint_row(run, saved, is_replaced=newest[saved.id] is not saved))
        for number, saved in enumerate(found, 1)
        if number > first or saved.best or saved.pinned
    ]
    shown = {
        "checkpoints": listed[::-1],
        "checkpoints_left_out": len(found) - len(listed),
        "saved": len(found),
        "kept": sum(not saved.deleted for saved in found),
        "has_archive": any(saved.state is not None or saved.why for saved in found),
        "archived": sum(saved.is_archived and saved.state != bus.CORRUPT for saved in found),
        "corrupt": sum(saved.state == bus.CORRUPT for saved in found),
        "no_request": denial_reason(principal, "Asking the archiver", CONTROL),
        "no_download": no_download,
    }
    return {**shown, "checkpoints_digest": _digest(shown)}


def _digest(shown: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(shown).encode("utf-8", "replace")).hexdigest()[:16]


def checkpoint_row(run: Run, saved: Checkpoint, *, is_replaced: bool = False) -> CheckpointRow:
    """The row of a checkpoint of ``run``; ``is_replaced``: it was saved again later."""
    attempts = {one.attempt: one for one in run.attempts}
    attempt = attempts.get(saved.attempt)
    end = None if attempt is None else attempt.superseded_after
    shown = main_metric(saved.metrics)
    percent = None if saved.copied is None else int(100 * saved.copied)
    state = _REPLACED if is_replaced else saved.state or "not archived"
    return CheckpointRow(
        record=saved,
        attempt=attempt.number if attempt and len(attempts) > 1 else None,
        is_superseded=end is not None and saved.step > end,
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
