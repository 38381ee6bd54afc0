"""The live stream of the API."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from lineside.dashboard.api.parameters import MAX_INT64
from lineside.dashboard.http.responses import error_responses
from lineside.dashboard.live.hub import ChangeFeed, LiveHub

_EXAMPLE = (
    "id: 41\nevent: changes\n"
    'data: {"revision":41,"runs":[{"id":"..."}],"deleted":[],"alerts":false}\n'
)


def router(hub: LiveHub, feed: ChangeFeed) -> APIRouter:
    """``/api/live``."""
    routes = APIRouter(prefix="/api", tags=["live"])

    @routes.get(
        "/live",
        response_class=StreamingResponse,
        responses={
            **error_responses(_503="The run history cannot be read now."),
            200: {
                "description": "Events `hello`, `changes` and `reset`; ids are revisions.",
                "content": {"text/event-stream": {"example": _EXAMPLE}},
            },
        },
    )
    async def live(
        run: Annotated[str | None, Query(description="Only this run.")] = None,
        after: Annotated[
            int | None, Query(ge=0, le=MAX_INT64, description="Begin after this revision.")
        ] = None,
        last_event_id: Annotated[
            str | None, Header(description="Resume after this revision, whatever `after` is.")
        ] = None,
    ) -> StreamingResponse:
        """Changes of runs as server-sent events; the browser's `EventSource` resumes by itself."""
        known = last_event_id or ""
        await to_thread.run_sync(feed.revision)  # fails with a problem document, not in the stream
        if known.isdecimal() and len(known) < 20:
            after = int(known)
        return StreamingResponse(
            hub.stream(after, run),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return routes
