"""Reads the checkpoints of a run: what was saved, and what the archive has of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, or_, select

from lineside.bus.protocol.checkpoints import COPYING, HELD, IN_ARCHIVE, TO_ARCHIVE, checkpoint_id
from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import checkpoint_states, checkpoints, runs, streams
from lineside.store.database.values import from_json, to_datetime, to_optional_datetime

MAIN_METRICS = ("eval_loss", "eval/loss", "loss", "train/loss", "train_loss")
"""The first of these that a checkpoint has is shown where there is room for one metric."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint.

    ``id`` is the same for every save of its path at its step in its attempt. ``path`` is on the
    training machine. ``best``: it is the best so far, by the archive's measure if there is an
    archive, else by the Trainer's; ``last``: it is the newest. ``deleted_at`` is
    when the training reported that it is gone, by rotation for example, or overwritten; what
    happens to it after the training is not known. ``metrics`` are the numbers at its step.

    The rest is of the archive, and None or empty without one. ``state`` is ``held``, or the newest
    that the archiver has reported, at ``state_at``; ``why`` is its reason and ``retry_at`` the time
    of the next try. ``done`` of its ``bytes`` are in the archive, ``sent`` of them were sent,
    ``stored`` is what it takes there. ``archive`` is the address of the manifest. ``keep``: why the
    policy keeps it. ``requested`` is what ``requested_by`` asked of the archiver and it has not
    answered, ``refused`` why it did not do what was asked before.
    """

    attempt: str
    step: int
    epoch: float | None
    time: datetime
    path: str
    best: bool
    deleted_at: datetime | None = None
    id: str = ""
    last: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: str | None = None
    state_at: datetime | None = None
    why: str | None = None
    retry_at: datetime | None = None
    bytes: int | None = None
    files: int | None = None
    sent: int | None = None
    done: int | None = None
    stored: int | None = None
    archive: str | None = None
    pinned: bool = False
    keep: tuple[str, ...] = ()
    requested: str | None = None
    requested_at: datetime | None = None
    requested_by: str | None = None
    refused: str | None = None

    @property
    def deleted(self) -> bool:
        """Whether the training has reported that it is gone."""
        return self.deleted_at is not None

    @property
    def is_archived(self) -> bool:
        """Whether the archive has it."""
        return self.state in IN_ARCHIVE

    @property
    def awaits_archive(self) -> bool:
        """Whether it is yet to be archived. Where it could not be held it has no state at first."""
        return self.state in TO_ARCHIVE if self.state else self.state_at is not None

    @property
    def copied(self) -> float | None:
        """The part of it that is in the archive, 0 to 1; None if it is not being copied."""
        if self.state != COPYING or not self.bytes:
            return None
        return min(1.0, (self.done or 0) / self.bytes)


def main_metric(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The metric to show where there is room for one: a loss, of an evaluation if there is one."""
    names = (*(name for name in MAIN_METRICS if name in metrics), *sorted(metrics))
    return (names[0], metrics[names[0]]) if names else None


def read_checkpoints(connection: Connection, key: int, best: str | None) -> list[Checkpoint]:
    """All checkpoints in the order they were saved; ``best`` is the path of the Trainer's best one.

    One whose ``save`` is not recorded is among them if the archiver has reported about it.
    """
    saves = connection.execute(
        select(checkpoints, streams.c.attempt)
        .join(streams, streams.c.id == checkpoints.c.stream_id)
        .where(checkpoints.c.run_key == key)
        .order_by(checkpoints.c.n)
    ).all()
    rows = connection.execute(select(checkpoint_states).where(checkpoint_states.c.run_key == key))
    states = {row.id: row for row in rows}
    newest_of_path = {row.path: row.n for row in saves}
    ids = [checkpoint_id(row.attempt, row.step, row.path) for row in saves]
    newest_of_id = dict(zip(ids, (row.n for row in saves), strict=True))
    best_id = _best_id(states.values())
    found = [
        Checkpoint(
            attempt=row.attempt,
            step=row.step,
            epoch=row.epoch,
            time=to_datetime(row.time),
            path=row.path,
            best=identity == best_id and row.n == newest_of_id[identity]
            if best_id
            else row.path == best and row.n == newest_of_path[best],
            deleted_at=to_optional_datetime(row.deleted_at),
            id=identity,
            last=row is saves[-1],
            **_archive_fields(states.get(identity), row.metrics, newest_of_id[identity] == row.n),
        )
        for identity, row in zip(ids, saves, strict=True)
    ]
    for identity, row in sorted(states.items(), key=lambda item: _reported_at(item[1])):
        reported_at = _reported_at(row)
        if identity not in newest_of_id and reported_at > 0.0:
            time = to_datetime(reported_at)
            checkpoint = Checkpoint(
                attempt=row.attempt,
                step=row.step,
                epoch=None,
                time=time,
                path=row.path,
                best=identity == best_id,
                id=identity,
                **_archive_fields(row, None, True),
            )
            found.insert(sum(1 for other in found if other.time <= time), checkpoint)
    return found


def runs_awaiting_archive(engine: Engine) -> list[str]:
    """The ids of the runs with a checkpoint that is yet to be archived, ended ones too.

    Raises:
        StoreError: the store cannot be read.
    """
    state, held_at = checkpoint_states.c.state, checkpoint_states.c.held_at
    query = (
        select(runs.c.id)
        .distinct()
        .join(checkpoint_states, checkpoint_states.c.run_key == runs.c.key)
        .where(or_(state.in_(TO_ARCHIVE), state.is_(None) & held_at.is_not(None)))
    )
    with read_transaction(engine) as connection:
        return list(connection.execute(query).scalars())


def _archive_fields(row: Any, metrics: str | None, is_newest: bool) -> dict[str, Any]:
    """What is known of the newest save; of an older one only its ``metrics``."""
    numbers = from_json(metrics) or {}
    if row is None or not is_newest:
        return {"metrics": numbers}
    return {
        "metrics": {**numbers, **(from_json(row.metrics) or {})},
        "state": row.state or (HELD if row.hold else None),
        "state_at": to_optional_datetime(row.state_at or row.held_at),
        "why": row.why,
        "retry_at": to_optional_datetime(row.retry_at),
        **{name: getattr(row, name) for name in ("bytes", "files", "sent", "done", "stored")},
        "archive": row.archive,
        "pinned": bool(row.pinned),
        "keep": tuple(from_json(row.keep) or ()),
        "requested": row.requested,
        "requested_at": to_optional_datetime(row.requested_at),
        "requested_by": row.requested_by,
        "refused": row.refused,
    }


def _best_id(rows: Any) -> str | None:
    """The checkpoint that the archiver called the best one last."""
    best = [(row.state_at or 0.0, row.step, row.id) for row in rows if row.best]
    return max(best)[2] if best else None


def _reported_at(row: Any) -> float:
    """When it was first known: held, or in its newest state; 0 if it was only asked about."""
    return float(row.held_at or row.state_at or 0.0)
