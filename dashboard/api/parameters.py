"""Parameters that routes of the API share, with their limits and descriptions."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query
from starlette.convertors import PathConvertor, register_url_convertor

from lineside.store.history.records import Status

ANY_TEXT = "text"
"""The type of a path parameter that takes any text: Starlette's ``path`` takes no newline."""


class _TextConvertor(PathConvertor):
    regex = "(?s:.*)"


register_url_convertor(ANY_TEXT, _TextConvertor())

Sort = Literal[
    "-started_at",
    "started_at",
    "-ended_at",
    "ended_at",
    "-updated_at",
    "updated_at",
    "-step",
    "step",
    "name",
    "-name",
    "project",
    "-project",
    "status",
    "-status",
]
Statuses = Annotated[
    list[Status],
    Query(
        default_factory=list,
        description="Only runs of this status; given several times, of any of them.",
    ),
]
MAX_POINTS = 20_000
MAX_INT64 = (1 << 63) - 1
RunId = Annotated[str, Path(description="The run's id.", examples=["tiny-gpt2-20261121-4f2a"])]
Limit = Annotated[int, Query(ge=1, le=500, description="Items on a page.")]
Cursor = Annotated[str | None, Query(description="The `next` of the previous page.")]
AttemptName = Annotated[
    str | None, Query(description="Its name or number. Default: the newest attempt.")
]
Attempts = Annotated[
    str,
    Query(
        description="`stitched`: what training really went through, without points after a step "
        "from which a later attempt resumed. `all`: with these, marked. Or one attempt, by its "
        "name or number.",
        examples=["stitched", "all", "2"],
    ),
]
PointCount = Annotated[int, Query(ge=1, le=MAX_POINTS, description="About how many points.")]
Axis = Annotated[Literal["step", "time"], Query(description="The meaning of `x`.")]
Start = Annotated[float | None, Query(description="Lowest `x`.", allow_inf_nan=False)]
End = Annotated[float | None, Query(description="Highest `x`.", allow_inf_nan=False)]
Producer = Annotated[str | None, Query(description="Only this producer's, such as `rank0`.")]
