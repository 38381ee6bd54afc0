"""Composes the application from its routers and middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import to_thread
from fastapi import Depends, FastAPI
from starlette.middleware.gzip import GZipMiddleware

from lineside.bus.auth.keyring import Keyring
from lineside.bus.settings import Settings
from lineside.dashboard.api import alerts, checkpoints, commands, runs
from lineside.dashboard.auth import login
from lineside.dashboard.auth.access import TokenAuthMiddleware
from lineside.dashboard.auth.site_guard import LOOPBACK_NAMES, SecurityMiddleware
from lineside.dashboard.backend import health
from lineside.dashboard.backend.archive_access import ArchiveAccess, ArchiveOpener
from lineside.dashboard.backend.command_sender import CommandSender
from lineside.dashboard.backend.refusal_publisher import RefusalPublisher
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.backend.transit_reader import TransitReader
from lineside.dashboard.http import problems, query_check
from lineside.dashboard.http.body_limit import BodyLimitMiddleware
from lineside.dashboard.http.static_files import Assets
from lineside.dashboard.live import routes as live
from lineside.dashboard.live.hub import LiveHub
from lineside.dashboard.live.store_feed import StoreFeed
from lineside.dashboard.pages import alerts as alert_pages
from lineside.dashboard.pages import routes as pages
from lineside.dashboard.pages.renderer import Renderer
from lineside.dashboard.transit import SpoolReader
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer

DESCRIPTION = """\
The run history of Lineside. Lists have the form `{"items": [...], "next": cursor or null}`. Errors
are RFC 9457 problem documents. JSON is strict: NaN and infinities are null, and a flag beside them
names the value. Times are RFC 3339 in UTC, except fields described as seconds."""


def create_app(
    history: History | None,
    writer: Writer | None,
    settings: Settings,
    *,
    keyring: Keyring | None = None,
    spool: SpoolReader | None = None,
    archive: ArchiveOpener | None = None,
) -> FastAPI:
    """The dashboard of one store.

    Without ``history`` and ``writer`` it opens ``settings.store`` at the first request. With
    ``keyring`` it requires tokens. ``spool`` reads this machine's spool, ``archive`` opens the
    archive of checkpoints. Close ``app.state.hub``, the live streams, before a shutdown.

    Raises:
        MissingExtra: plotly is not installed.
    """
    store = StoreAccess(settings.store, history, writer, as_of=lambda: transit.as_of())
    assets = Assets.load()
    renderer = Renderer(assets, store.alert_counts)
    transit = TransitReader(store, settings.broker, spool)
    feed = StoreFeed(store)
    hub = LiveHub(feed)
    refusal_publisher = RefusalPublisher(settings.broker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(refusal_publisher.close)

    app = FastAPI(
        title="Lineside",
        version=version("lineside"),
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # both pages would load scripts from a CDN
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.hub = hub
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    if keyring is not None:
        app.add_middleware(
            TokenAuthMiddleware,
            keyring=keyring,
            refusal_publisher=refusal_publisher,
            page=renderer.error,
        )
        app.include_router(login.router(keyring, refusal_publisher, renderer))
    hosts = LOOPBACK_NAMES if keyring is None else None
    app.add_middleware(SecurityMiddleware, hosts=hosts, on_refusal=refusal_publisher.add)
    problems.add_error_handlers(app, renderer.error)
    text, query = Depends(query_check.check_text), Depends(query_check.check_query)
    app.include_router(runs.router(store, transit), dependencies=[text, query])
    sender = CommandSender(settings.broker)
    app.include_router(commands.router(store, sender), dependencies=[text, query])
    app.include_router(alerts.router(store, sender), dependencies=[text, query])
    archived = ArchiveAccess(archive)
    app.include_router(checkpoints.router(store, sender, archived), dependencies=[text, query])
    app.include_router(health.router(store, transit))
    app.include_router(assets.router())
    app.include_router(pages.router(store, renderer, transit, archived), dependencies=[text])
    app.include_router(alert_pages.router(store, renderer), dependencies=[text])
    app.include_router(live.router(hub, feed), dependencies=[text, query])
    return app
