"""One command per process: the pieces ``lineside up`` starts, each usable alone."""

from __future__ import annotations

from typing import Annotated

import typer

from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings


def broker(
    keep_days: Annotated[float, typer.Option(help="Keep journal entries this many days.")] = 7.0,
    keep_gb: Annotated[float, typer.Option(help="Keep at most this many gigabytes.")] = 10.0,
) -> None:
    """Receive every event, keep it in the journal and deliver it to readers."""
    from lineside.bus.broker import Broker

    configure_logging()
    Broker(Settings.from_env(), keep_days=keep_days, keep_bytes=int(keep_gb * (1 << 30))).serve()


def recorder() -> None:
    """Write every event into the store."""
    from lineside.subscribers.recorder import Recorder

    configure_logging()
    Recorder(Settings.from_env()).serve()


def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 7431,
) -> None:
    """Serve the pages and the REST API."""
    from lineside.dashboard.server import serve

    configure_logging()
    serve(Settings.from_env(), host=host, port=port)


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    for command in (broker, recorder, dashboard):
        app.command()(command)
