"""The documents of the REST API about checkpoints."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from lineside.bus.protocol.checkpoints import HELD, OPS, STATES
from lineside.dashboard.api.models import NON_FINITE, Document, from_record
from lineside.store.history import checkpoints as history


class Checkpoint(Document):
    """A checkpoint, and what the archive has of it; without an archive ``state`` is null."""

    id: str = Field(description="The same for every save of this path, step and attempt.")
    attempt: str
    step: int
    epoch: float | None
    time: datetime
    path: str = Field(description="On the training machine.")
    best: bool = Field(description="The archive's best one, or without an archive the Trainer's.")
    last: bool = Field(description="The newest checkpoint of the run.")
    deleted: bool = Field(description="The training reported that it is gone or overwritten.")
    deleted_at: datetime | None = Field(description="When it reported that.")
    metrics: dict[str, float | None] = Field(description="The numbers at its step.")
    state: str | None = Field(examples=[HELD, *STATES])
    state_at: datetime | None
    why: str | None = Field(description="The reason of the state, as a sentence.")
    retry_at: datetime | None = Field(description="When a copy that failed is tried again.")
    bytes: int | None = Field(description="Its size.")
    files: int | None
    done: int | None = Field(description="The bytes of it that are in the archive so far.")
    sent: int | None = Field(description="The bytes that were sent for it.")
    stored: int | None = Field(
        description="The bytes that it takes in the archive, shared parts included."
    )
    archive: str | None = Field(description="The address of its manifest.")
    pinned: bool
    keep: list[str] = Field(description="Why the policy keeps it.", examples=[["last", "best"]])
    requested: str | None = Field(
        description="What a person asked of the archiver, which has not answered.",
        examples=list(OPS),
    )
    requested_at: datetime | None
    requested_by: str | None = Field(examples=["ada@atelier"])
    refused: str | None = Field(description="Why the archiver did not do what was asked before.")
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, record: history.Checkpoint) -> Checkpoint:
        return from_record(cls, record, "metrics")
