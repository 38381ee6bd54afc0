"""The process of the dashboard: address, signals and uvicorn."""

from __future__ import annotations

import logging
import os
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.auth.listener import address, check_tokens, is_loopback, listen
from lineside.bus.errors import MissingExtra
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.settings import DASHBOARD_PORT, Settings
from lineside.bus.sockets import raise_file_limit

try:
    import uvicorn

    from lineside.dashboard.app import create_app
    from lineside.dashboard.http.connections import BoundedConnection, connection_limits
    from lineside.dashboard.live.hub import LiveHub
except ModuleNotFoundError as missing:
    raise MissingExtra("the dashboard", missing.name or "fastapi", "server") from missing

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from lineside.dashboard.backend.archive_access import ArchiveOpener
    from lineside.dashboard.transit import SpoolReader

log = logging.getLogger("lineside")


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = DASHBOARD_PORT,
    *,
    tokens: bool = False,
    spool: SpoolReader | None = None,
    archive: ArchiveOpener | None = None,
) -> None:
    """Serve pages and API on ``host``:``port`` until SIGINT, SIGTERM or the supervisor's end.

    An address other than loopback requires tokens; with ``tokens`` loopback does too. Port 0 picks
    a free port; the log shows the address. The store need not exist yet: the recorder makes it, and
    until then ``/readyz`` and the pages report that it is missing. ``spool`` reads this machine's
    spool, and ``archive`` opens the archive of checkpoints.

    Raises:
        UsageError: the process cannot listen on ``host``, or tokens are required and none exists.
        AddressInUse: another process listens there.
        MissingExtra: plotly is not installed.
    """
    keyring = Keyring(keys_folder(settings.home))
    if tokens:
        check_tokens(keyring)
    listener = listen(host, port, keyring)
    with listener:
        is_open = is_loopback(listener) and not tokens
        keys = None if is_open else keyring
        app = create_app(None, None, settings, keyring=keys, spool=spool, archive=archive)
        raise_file_limit()
        server = Server(server_config(app), app.state.hub)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        log.info("dashboard: %s, pid %d", address(listener), os.getpid())
        server.run(sockets=[listener])
    log.info("dashboard: ended")


def server_config(app: ASGIApp, log_level: str = "warning") -> uvicorn.Config:
    """The configuration of the HTTP server, with limits for its clients."""
    connections, backlog = connection_limits()
    return uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        limit_concurrency=connections + 1,
        backlog=backlog,
        timeout_graceful_shutdown=5,
    )


class Server(uvicorn.Server):
    """A uvicorn server that closes live streams at shutdown and ends with its supervisor."""

    def __init__(self, config: uvicorn.Config, hub: LiveHub) -> None:
        super().__init__(config)
        self._hub = hub
        self._supervisor = int(os.environ.get(SUPERVISOR_PID, "0"))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Request an orderly end. Unlike uvicorn's, it does not raise the signal again."""
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._supervisor and os.getppid() != self._supervisor:
            log.warning("dashboard: the supervisor is gone, ending")
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.close()
        await super().shutdown(sockets)
