"""The stack in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import re
import time

import typer

from lineside.bus.service import Service
from lineside.cli.output import warn
from lineside.cli.stack.leftover_events import LeftoverEvents
from lineside.cli.stack.service_manager import READY, STOPPING, notify
from lineside.cli.stack.stack import Stack

READY_SECONDS = 60.0
"""How long ``up`` waits for the recorder to have caught up. For processes to answer, too."""
_POLL_SECONDS = 0.2


class UpService(Service):
    """Runs a stack and reports on stderr; ``quiet`` leaves out the processes' log lines."""

    name = "up"

    def __init__(self, stack: Stack, *, quiet: bool = False) -> None:
        super().__init__()
        self.stack = stack
        self._quiet = quiet
        self._ready = False
        self._deadline = 0.0
        self._leftover_events = LeftoverEvents(stack.settings, warn)

    def startup(self) -> None:
        """Start the processes."""
        self.stack.start()
        self._deadline = time.monotonic() + READY_SECONDS

    def run_once(self) -> None:
        """Wait until the stack is ready, then supervise it."""
        if not self._quiet:
            for name, line in self.stack.new_lines():
                warn(f"{name:<9} | {line}")
        if self._ready:
            self.stack.run_once()
            self._leftover_events.send()
        elif self.stack.ready():
            self._begin()
        elif time.monotonic() > self._deadline:
            # A recorder may need hours for what waited. To end would take from it what it has done
            # of an upgrade of the store, and the broker from the trainings.
            warn(f"going on, while {self.stack.not_ready_reason()}")
            self._begin()
        time.sleep(_POLL_SECONDS)

    def _begin(self) -> None:
        self._ready = True
        notify(READY, f"STATUS=page {self.stack.dashboard or 'off'}")
        self.on_ready()

    def on_ready(self) -> None:
        """Print the addresses."""
        settings = self.stack.settings
        configuration = self.stack.configuration
        listen = configuration.values.broker.listen
        also = f", with a key {listen}" if listen else ""
        addresses = self.stack.addresses
        page = f"  page    {addresses['dashboard']}\n" if "dashboard" in addresses else ""
        metrics = f"  metrics {addresses['exporter']}/metrics\n" if "exporter" in addresses else ""
        archive = configuration.archive.url if configuration.runs_archiver else ""
        archive = f"  archive {archive}\n" if archive else ""
        config = f"  config  {configuration.path}\n" if configuration.path else ""
        typer.echo(
            f"Lineside is up.\n{page}{metrics}"
            f"  broker  {settings.broker}{also}\n"
            f"  store   {without_password(settings.store)}\n"
            f"  logs    {self.stack.logs}\n{archive}{config}"
            "Ctrl-C ends it. Training goes on without it, and its events are kept."
        )

    def shutdown(self) -> None:
        """End the processes."""
        notify(STOPPING)
        if self._ready:
            warn("shutting down")
        self.stack.stop()


def without_password(url: str) -> str:
    """``url`` with its password masked."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)
