"""The documents of the REST API about alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lineside.bus.protocol.alerts import RULE_LENGTH, SEVERITIES, TEXT_LENGTH
from lineside.dashboard.api.models import NON_FINITE, Document, from_record
from lineside.store.history import records

MAX_SECONDS = 31_536_000
"""The longest mute that has an end: a year."""


class AlertMute(Document):
    """A mute: no notifications of its alerts, which are shown all the same."""

    id: str
    run: str | None = Field(description="Its run; null for every run.")
    rule: str | None = Field(description="Its rule; null for every rule.")
    muted_at: datetime
    until: datetime | None = Field(description="When it ends; null if it holds until it is lifted.")
    by: str = Field(examples=["ada@atelier"])
    note: str


class Alert(Document):
    """An alert as its newest event states it."""

    id: str
    run: str | None = Field(description="The id of its run; null if it is about no run.")
    run_name: str | None
    project: str | None
    producer: str = Field(examples=["watchdog", "stopper"])
    rule: str = Field(examples=["lost"])
    subject: str = Field(description="What of the run it is about, such as a GPU; may be empty.")
    state: str = Field(examples=["open", "closed"])
    severity: str = Field(examples=list(SEVERITIES))
    summary: str
    details: dict[str, Any]
    action: str = Field(description="The command to run next; may be empty.")
    step: int
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    openings: int = Field(description="How often it has opened.")
    acknowledged_at: datetime | None
    acknowledged_by: str
    acknowledged_note: str
    mute: AlertMute | None = Field(description="A mute that covers it now.")
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, record: records.Alert) -> Alert:
        return from_record(cls, record, "details")


class AcknowledgeRequest(BaseModel):
    """An acknowledgement."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"note": "the node is back"}]}
    )

    note: str = Field(default="", max_length=TEXT_LENGTH)


class MuteRequest(BaseModel):
    """A mute to set."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"rule": "gpu_idle", "run": "tiny-gpt2-20261121-084512-4f2a", "seconds": 3600},
                {"seconds": 28800, "note": "maintenance"},
            ]
        },
    )

    run: str | None = Field(default=None, description="A run's id. Default: every run.")
    rule: str | None = Field(
        default=None, min_length=1, max_length=RULE_LENGTH, description="Default: every rule."
    )
    seconds: float | None = Field(
        default=None, ge=1, le=MAX_SECONDS, description="Default: until it is lifted."
    )
    note: str = Field(default="", max_length=TEXT_LENGTH)
    id: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="Makes the mute unique: sent several times, it is set once.",
    )
