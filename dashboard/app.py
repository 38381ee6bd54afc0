"""The application: handed what it needs, put together here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated

from anyio import to_thread
from fastapi import FastAPI, Header, Query
from fastapi.responses import StreamingResponse
from starlette.middleware.gzip import GZipMiddleware

from lineside.bus.auth.keyring import Keyring
from lineside.bus.settings import Settings
from lineside.dashboard.api import commands, runs
from lineside.dashboard.api.responses import error_responses
from lineside.dashboard.auth import login
from lineside.dashboard.auth.access import TokenAuthMiddleware
from lineside.dashboard.auth.site_guard import LOOPBACK_NAMES, SecurityMiddleware
from lineside.dashboard.backend import health
from lineside.dashboard.backend.command_sender import CommandSender
from lineside.dashboard.backend.refusal_publisher import RefusalPublisher
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.http import problems
from lineside.dashboard.http.body_limit import BodyLimitMiddleware
from lineside.dashboard.http.static_files import Assets
from lineside.dashboard.live.hub import LiveHub
from lineside.dashboard.live.store_feed import StoreFeed
from lineside.dashboard.pages import routes
from lineside.dashboard.pages.renderer import Renderer
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer

DESCRIPTION = """\
The run history of Lineside. Lists answer `{"items": [...], "next": cursor or null}`. Errors are
RFC 9457 problem documents. JSON is strict: a number that is not finite is null, and a flag beside
it says which. Times are RFC 3339 in UTC unless a field says seconds."""
_LIVE_EXAMPLE = 'id: 41\nevent: changes\ndata: {"revision":41,"runs":[{"id":"..."}],"deleted":[]}\n'


def create_app(
    history: History | None,
    writer: Writer | None,
    settings: Settings,
    *,
    keyring: Keyring | None = None,
) -> FastAPI:
    """The dashboard over a store. Without ``history`` and ``writer`` it opens ``settings.store``
    once that is there. With ``keyring`` it takes tokens. ``app.state.hub`` holds the live streams;
    close it before shutting down.

    Raises:
        MissingExtra: plotly is not installed.
    """
    store = StoreAccess(settings.store, history, writer)
    assets = Assets.load()
    renderer = Renderer(assets)
    feed = StoreFeed(store)
    hub = LiveHub(feed)
    audit = RefusalPublisher(settings.broker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(audit.close)

    app = FastAPI(
        title="Lineside",
        version=version("lineside"),
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # both come from a CDN
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.hub = hub
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    if keyring is not None:
        app.add_middleware(TokenAuthMiddleware, keyring=keyring, audit=audit, page=renderer.error)
        app.include_router(login.router(keyring, audit, renderer))
    hosts = LOOPBACK_NAMES if keyring is None else None
    app.add_middleware(SecurityMiddleware, hosts=hosts, on_refusal=audit.add)
    problems.add_error_handlers(app, renderer.error)
    app.include_router(runs.router(store))
    app.include_router(commands.router(store, CommandSender(settings.broker)))
    app.include_router(health.router(store, settings.broker))
    app.include_router(assets.router())
    app.include_router(routes.router(store, renderer))

    @app.get(
        "/api/live",
        tags=["live"],
        response_class=StreamingResponse,
        responses={
            **error_responses(_503="The run history cannot be read now."),
            200: {
                "description": "Events `hello`, `changes` and `reset`; ids are revisions.",
                "content": {"text/event-stream": {"example": _LIVE_EXAMPLE}},
            },
        },
    )
    async def live(
        run: Annotated[str | None, Query(description="Only this run.")] = None,
        last_event_id: Annotated[
            str | None, Header(description="Go on after this revision.")
        ] = None,
    ) -> StreamingResponse:
        """What changes, as server-sent events; the browser's `EventSource` resumes by itself."""
        known = last_event_id or ""
        await to_thread.run_sync(feed.revision)  # a store that is away is a problem document
        after = int(known) if known.isdecimal() and len(known) < 20 else None
        return StreamingResponse(
            hub.stream(after, run),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return app
