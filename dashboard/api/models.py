"""What the REST API answers with: typed, strict JSON, read off the store's records.

Where a number is not finite, null stands in its place and ``non_finite`` or ``flags`` says what it
was. Times are RFC 3339 in UTC, but for ``Points.time`` and ``x=time``: seconds since the epoch.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator

from lineside.bus.protocol.commands import EXPIRES_SECONDS, OPS
from lineside.dashboard.http.strict_json import strict
from lineside.store.history import records

T = TypeVar("T")
NON_FINITE = "JSON pointers to numbers that JSON cannot say, which stand as null: nan, inf or -inf."


class Document(BaseModel):
    """Read off a record's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Listing(Document, Generic[T]):
    """Some items, and the cursor that asks for those after them."""

    items: list[T]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class Failure(Document):
    """The exception that ended training, of the producer that raised it first."""

    producer: str = Field(examples=["rank0"])
    type: str = Field(examples=["torch.OutOfMemoryError"])
    message: str
    traceback: str = Field(description="As Python prints it; its end if it is long.")


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


class LossAccount(Document):
    """``emitted == recorded + gaps + lag``: kept, known to be missing, or on its way."""

    emitted: int
    recorded: int
    gaps: int
    lag: int


class Run(Document):
    """A training as a person thinks of it: status, step and epoch are its newest attempt's."""

    id: str = Field(examples=["tiny-gpt2-20261121-084512-4f2a"])
    name: str
    project: str
    status: str = Field(examples=list(records.RUN_STATUSES))
    phase: str | None = Field(
        description="What it does, as `training` or `paused`; null once it ended."
    )
    reason: str | None = Field(description="Why, where the status needs a reason.")
    error: Failure | None = Field(description="The exception that ended it, if one did.")
    attempts: list[Attempt]
    step: int | None
    max_steps: int | None
    epoch: float | None
    started_at: datetime
    ended_at: datetime | None
    updated_at: datetime = Field(description="When the store last heard of it.")
    event_counts: dict[str, int] = Field(description="Every kind, exact.")
    loss_account: LossAccount
    metrics: dict[str, float | None] = Field(description="The last value of each metric.")
    note: str | None
    tags: list[str]

    @computed_field(description=NON_FINITE)  # type: ignore[prop-decorator]
    @property
    def non_finite(self) -> dict[str, str]:
        return {f"/metrics{pointer}": word for pointer, word in strict(self.metrics)[1].items()}


class Series(Document):
    """One metric of one producer; ``min`` and ``max`` are of the finite values."""

    name: str = Field(examples=["eval/loss"])
    attempt: str
    producer: str
    count: int
    last: float | None
    last_step: int
    last_time: datetime
    min: float | None
    max: float | None

    @computed_field(description=NON_FINITE)  # type: ignore[prop-decorator]
    @property
    def non_finite(self) -> dict[str, str]:
        return strict({"last": self.last})[1]


class Flag(BaseModel):
    """The value at ``index`` of ``y`` is not finite."""

    index: int
    value: str = Field(examples=["nan", "inf", "-inf"])


class Points(Document):
    """A curve as columns of equal length. If ``downsampled``, each block's first, last, lowest and
    highest point stand for it: no spike is lost, and points already answered stay as they were."""

    name: str
    attempt: str | None
    producer: str
    x: list[float] = Field(description="Steps, or seconds since the epoch.")
    y: list[float | None]
    step: list[int]
    time: list[float] = Field(description="Seconds since the epoch.")
    epoch: list[float | None]
    flags: list[Flag] = Field(validation_alias="flag", description="Where y is not finite.")
    total: int = Field(description="Points recorded, of the whole curve.")
    sum: float | None = Field(description="Their finite values added up, of the whole curve.")
    downsampled: bool

    @field_validator("flags", mode="before")
    @classmethod
    def _non_finite_points(cls, column: list[str | None]) -> list[Flag]:
        return [Flag(index=at, value=word) for at, word in enumerate(column) if word is not None]


class Timing(Document):
    """Seconds by step: ``compute`` from its begin to its end, ``wait`` from there to the next."""

    compute: Points
    wait: Points


class Event(Document):
    """One recorded event; ``n`` numbers them within the run in order of recording."""

    n: int
    producer: str
    attempt: str
    seq: int
    kind: str = Field(examples=["evaluate"])
    step: int
    epoch: float | None
    time: datetime
    data: dict[str, Any] | None
    problem: str | None = Field(description="Why it could not be read as what its kind promises.")
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, row: records.EventRow) -> Event:
        data, flags = strict({"data": row.data})
        return cls(
            n=row.n,
            producer=row.producer,
            attempt=row.attempt,
            seq=row.seq,
            kind=row.kind,
            step=row.step,
            epoch=row.epoch,
            time=row.time,
            problem=row.problem,
            non_finite=flags,
            **data,
        )


class Checkpoint(Document):
    """A checkpoint as announced when it was saved; it may be gone from disk since."""

    attempt: str
    step: int
    epoch: float | None
    time: datetime
    path: str = Field(description="On the training machine.")
    best: bool


class Command(Document):
    """A command to a run, and how far it has come; what is not known is null or empty."""

    id: str
    op: str | None = Field(examples=["set_lr"])
    args: dict[str, Any]
    reason: str
    issued_by: str = Field(examples=["ada@atelier"])
    requested_at: datetime | None
    expires_at: datetime | None = Field(description="A training that finds it later leaves it.")
    state: str = Field(
        examples=["requested", "delivered", "applied", "rejected", "expired", "superseded"]
    )
    delivered_at: datetime | None
    settled_at: datetime | None = Field(description="Since when nothing more will become of it.")
    attempt: str | None = Field(description="The attempt that answered last.")
    step: int | None = Field(description="Its step then.")
    detail: str = Field(description="A sentence on the state, where there is something to say.")
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, record: records.Command) -> Command:
        fields = {name: getattr(record, name) for name in cls.model_fields if name != "non_finite"}
        clean, flags = strict({"args": record.args})
        return cls(**{**fields, **clean, "non_finite": flags})


class CommandRequest(BaseModel):
    """What is to be done, and why."""

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
        description="However often a command of this id is sent, it is applied once.",
    )
    expires_in: float = Field(
        default=EXPIRES_SECONDS,
        ge=1,
        le=31_536_000,
        description="Seconds after which a training does not apply it any more.",
    )


class AuditEntry(Document):
    """Who asked for what, and what came of it; what is not known is empty."""

    time: datetime
    who: str
    role: str
    action: str = Field(examples=["set_lr 1e-05", "stop without saving"])
    target: str = Field(examples=["tiny-gpt2-20261121-084512-4f2a"])
    outcome: str = Field(examples=["requested", "applied", "refused"])
    why: str
    count: int = Field(description="How often.")
    run: str | None
    command: str | None = Field(description="The id of the command it is about.")


class Configuration(BaseModel):
    """What the run said of itself when it started; secrets were taken out before it was sent."""

    configuration: dict[str, Any]
    non_finite: dict[str, str] = Field(description=NON_FINITE)

    @classmethod
    def from_store(cls, facts: dict[str, Any]) -> Configuration:
        clean, flags = strict({"configuration": facts})
        return cls(non_finite=flags, **clean)


class Stream(Document):
    """One producer's own loss account, and what its emitter said of itself."""

    producer: str
    attempt: str
    emitted: int
    recorded: int
    gaps: int
    lag: int
    unreadable: int
    dropped: int | None
    hook_errors: int | None
    encode_failures: int | None
    hook_ns: int | None = Field(description="Nanoseconds spent in all hooks together.")
    hooks: int | None
    rss: int | None = Field(description="Bytes.")
    phase: str | None
    step: int | None
    last_seen: datetime


class Account(BaseModel):
    """The loss account: by stream, and in words."""

    verdict: str = Field(examples=["clear", "caution"])
    headline: str
    sentences: list[str]
    streams: list[Stream]


class RunChange(BaseModel):
    """What may be changed of a run; what is left out stays."""

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


class Check(BaseModel):
    """One thing readiness depends on."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Whether the dashboard is of use, and what that hangs on."""

    ready: bool
    checks: dict[str, Check]
