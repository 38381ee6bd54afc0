"""The documents of curves, validated from records of the store."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field, computed_field, field_validator

from lineside.dashboard.api.models import NON_FINITE, Document
from lineside.dashboard.http.strict_json import strict


class Series(Document):
    """One metric of one producer; ``min`` and ``max`` cover the finite values."""

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


class Segment(Document):
    """The ``count`` points from index ``first`` on are of one attempt."""

    attempt: str | None = Field(description="Null for a producer beside the training.")
    number: int | None
    superseded: bool = Field(description="A later attempt resumed from an earlier step.")
    first: int
    count: int


class Means(Document):
    """Consecutive blocks of ``size`` points, as columns; the last of an attempt may be smaller."""

    size: int
    start: list[float] = Field(description="The lowest x of each block.")
    end: list[float] = Field(description="The highest x of each block.")
    mean: list[float | None] = Field(description="Of the finite values; null without any.")
    count: list[int] = Field(description="The number of finite values.")


class Blocks(Document):
    """The blocks that a downsampled curve stands for."""

    means: Means
    low: list[float | None]
    high: list[float | None]


class Points(Document):
    """A curve as columns of equal length, attempt by attempt.

    If ``downsampled``, each block of points keeps its first, last, lowest and highest point: no
    spike is lost, and points returned once do not change while the run continues.
    """

    name: str
    attempt: str | None = Field(
        description="Null if the points are of several attempts, or of a producer beside the "
        "training that covers the run."
    )
    producer: str
    x: list[float] = Field(description="Steps, or seconds since the epoch.")
    y: list[float | None]
    step: list[int]
    time: list[float] = Field(description="Seconds since the epoch.")
    epoch: list[float | None]
    flags: list[Flag] = Field(
        validation_alias="flag", description="Points whose y is NaN or infinite."
    )
    segments: list[Segment]
    total: int = Field(description="Number of recorded points of the whole curve.")
    sum: float | None = Field(description="Sum of the finite values of the whole curve.")
    downsampled: bool
    blocks: Blocks | None = Field(
        description="If downsampled: the blocks of the part requested, without superseded points."
    )
    overview: Means | None = Field(
        description="If requested: the whole curve in about 1,000 blocks at most, without "
        "superseded points."
    )

    @field_validator("flags", mode="before")
    @classmethod
    def _non_finite_points(cls, column: list[str | None]) -> list[Flag]:
        return [Flag(index=at, value=word) for at, word in enumerate(column) if word is not None]


class Timing(Document):
    """Seconds by step: ``compute`` from begin to end, ``wait`` until the next step begins."""

    compute: Points
    wait: Points
