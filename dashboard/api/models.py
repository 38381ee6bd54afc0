"""The documents of the REST API, validated from records of the store.

NaN and infinities are null; ``non_finite`` or ``flags`` hold which. Times are RFC 3339 in UTC,
except in columns of a curve, which are seconds since the epoch.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, computed_field

from lineside.bus.protocol.commands import EXPIRES_SECONDS, OPS
from lineside.dashboard.http.strict_json import strict
from lineside.dashboard.transit import RecorderLag
from lineside.store.history import records

T = TypeVar("T")
NON_FINITE = "JSON pointers to numbers that are null here, and what they are: nan, inf or -inf."


class Document(BaseModel):
    """A document read from a record's attributes."""

    model_config = ConfigDict(from_attributes=True)


D = TypeVar("D", bound=Document)


def from_record(model: type[D], record: object, free_form: str) -> D:
    """``record`` as ``model``; strict JSON of its field ``free_form`` sets ``non_finite``."""
    clean, flags = strict({free_form: getattr(record, free_form)})
    names = model.model_fields.keys() - {free_form, "non_finite"}
    fields = {name: getattr(record, name) for name in names}
    return model.model_validate({**fields, **clean, "non_finite": flags})


class Listing(Document, Generic[T]):
    """A page of items, and the cursor of the next page."""

    items: list[T]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class Failure(Document):
    """The exception that ended training, from the producer that raised it first."""

    producer: str = Field(examples=["rank0"])
    type: str = Field(examples=["torch.OutOfMemoryError"])
    message: str
    traceback: str = Field(description="As Python prints it; only the end if it is long.")


class Attempt(Document):
    """One process start of a run; ``number`` counts from 1."""

    attempt: str = Field(examples=["20261121T082653-4f2a"])
    number: int
    status: str
    phase: str | None
    reason: str | None
    error: Failure | None
    started_at: datetime
    ended_at: datetime | None
    updated_at: datetime
    step: int | None
    max_steps: int | None
    epoch: float | None
    resumed_attempt: str | None
    resumed_step: int | None
    superseded_after: int | None = Field(
        description="Points after this step do not count: a later attempt resumed from there. -1: "
        "none counts; null: all do."
    )


class LossAccount(Document):
    """``emitted == recorded + gaps + lag``: recorded, known missing, or not arrived yet."""

    emitted: int
    recorded: int
    gaps: int
    lag: int


class MetricValue(Document):
    """The last value of a metric."""

    name: str
    value: float | None


class Run(Document):
    """One training. Status, step and epoch are those of its newest attempt."""

    id: str = Field(examples=["tiny-gpt2-20261121-084512-4f2a"])
    name: str
    project: str
    status: str = Field(examples=list(records.RUN_STATUSES))
    phase: str | None = Field(
        description="Current phase, such as `training` or `paused`; null once it ended."
    )
    reason: str | None = Field(description="The reason for the status, if it needs one.")
    error: Failure | None = Field(description="The exception that ended the run, if any.")
    attempts: list[Attempt]
    step: int | None
    max_steps: int | None
    epoch: float | None
    started_at: datetime
    ended_at: datetime | None
    updated_at: datetime = Field(description="Time of the last event in the store.")
    event_counts: dict[str, int] = Field(description="Exact number of events of each kind.")
    loss_account: LossAccount
    metrics: dict[str, float | None] = Field(description="The last value of each metric.")
    loss: MetricValue | None = Field(
        description="The loss that lists show: `loss`, `train/loss`, `train_loss`, `eval_loss` or "
        "`eval/loss`, the first that was logged."
    )
    note: str | None
    tags: list[str]
    group: str | None

    @computed_field(description=NON_FINITE)  # type: ignore[prop-decorator]
    @property
    def non_finite(self) -> dict[str, str]:
        return strict({"metrics": self.metrics, "loss": {"value": self.loss and self.loss.value}})[
            1
        ]


class Event(Document):
    """One recorded event; ``n`` counts the events of the run in the order recorded."""

    n: int
    producer: str
    attempt: str
    seq: int
    kind: str = Field(examples=["evaluate"])
    step: int
    epoch: float | None
    time: datetime
    data: dict[str, Any] | None
    problem: str | None = Field(description="Why the data does not have the form of its kind.")
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, row: records.EventRow) -> Event:
        return from_record(cls, row, "data")


class Command(Document):
    """A command to a run and its state; unknown fields are null or empty."""

    id: str
    op: str | None = Field(examples=["set_lr"])
    args: dict[str, Any]
    reason: str
    issued_by: str = Field(examples=["ada@atelier"])
    requested_at: datetime | None
    expires_at: datetime | None = Field(
        description="A training does not apply the command after this."
    )
    state: str = Field(
        examples=["requested", "delivered", "applied", "rejected", "expired", "superseded"]
    )
    delivered_at: datetime | None
    settled_at: datetime | None = Field(description="When it reached its final state.")
    attempt: str | None = Field(description="The attempt of the last answer.")
    step: int | None = Field(description="The step of that attempt then.")
    detail: str = Field(description="Details of the state; may be empty.")
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, record: records.Command) -> Command:
        return from_record(cls, record, "args")


class CommandRequest(BaseModel):
    """A command to send."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"op": "set_lr", "args": {"lr": 1e-5}, "reason": "after the spike"},
                {"op": "stop", "args": {"save": True}, "id": "4f2a9c", "expires_in": 60},
            ]
        },
    )

    op: str = Field(json_schema_extra={"enum": list(OPS)})
    args: dict[str, Any] = Field(
        default_factory=dict,
        json_schema_extra={
            "additionalProperties": {"anyOf": [{"type": "boolean"}, {"type": "number"}]}
        },
        description="`save` of stop (default true), `seconds` of pause, `lr` of set_lr.",
    )
    reason: str = Field(default="", max_length=1000)
    id: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="Makes the command unique: sent several times, it is applied once.",
    )
    expires_in: float = Field(
        default=EXPIRES_SECONDS,
        ge=1,
        le=31_536_000,
        description="Seconds until the command expires.",
    )


class AuditEntry(Document):
    """One request with its issuer and outcome; unknown fields are empty."""

    time: datetime
    who: str
    role: str
    action: str = Field(examples=["set_lr 1e-05", "stop without saving"])
    target: str = Field(examples=["tiny-gpt2-20261121-084512-4f2a"])
    outcome: str = Field(examples=["requested", "applied", "refused"])
    why: str
    count: int = Field(description="Number of such requests.")
    run: str | None
    command: str | None = Field(description="The id of the command, if the entry is about one.")


class Configuration(BaseModel):
    """The configuration that the run published at its start, without secrets."""

    configuration: dict[str, Any]
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, facts: dict[str, Any]) -> Configuration:
        clean, flags = strict({"configuration": facts})
        return cls(non_finite=flags, **clean)


class Stream(Document):
    """The loss account of one stream, and the counters of its emitter."""

    producer: str
    attempt: str
    emitted: int
    recorded: int
    gaps: int
    reported_gaps: int = Field(description="Of the gaps, those that the producer has reported.")
    lag: int
    unreadable: int
    left_out: int = Field(description="Values that have no curve: their names were too many.")
    dropped: int | None
    hook_errors: int | None
    encode_failures: int | None
    hook_ns: int | None = Field(description="Nanoseconds spent in all hooks.")
    hooks: int | None
    rss: int | None = Field(description="Bytes.")
    phase: str | None
    step: int | None
    last_seen: datetime


class Recorder(Document):
    """How far the recorder is behind the broker, for all runs together."""

    keeps_up: bool | None = Field(description="Null if nothing is known.")
    events: int | None = Field(description="Events that wait in the broker; null if not known.")
    seconds: float | None = Field(description="How long the first of them has waited.")
    detail: str

    @classmethod
    def from_lag(cls, lag: RecorderLag) -> Recorder:
        return cls(
            keeps_up=not lag.is_behind if lag.is_known else None,
            events=lag.events,
            seconds=lag.seconds if lag.is_known else None,
            detail=str(lag),
        )


class Account(BaseModel):
    """The loss account: by stream, and as text."""

    verdict: str = Field(examples=["clear", "caution"])
    headline: str
    sentences: list[str]
    streams: list[Stream]
    in_spool: int = Field(description="Events known to wait in the spool of this machine.")
    recorder: Recorder


class RunChange(BaseModel):
    """Changes to a run; fields left out stay."""

    model_config = ConfigDict(
        extra="forbid",
        str_strip_whitespace=True,
        json_schema_extra={"examples": [{"name": "baseline", "tags": ["paper"]}]},
    )

    name: str | None = Field(default=None, min_length=1, max_length=200)
    project: str | None = Field(default=None, min_length=1, max_length=200)
    note: str | None = Field(default=None, max_length=10_000)
    tags: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        default=None, max_length=50
    )
    group: str | None = Field(default=None, max_length=200)


class Check(BaseModel):
    """One check of readiness."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Whether the dashboard is ready, and its checks."""

    ready: bool
    checks: dict[str, Check]
