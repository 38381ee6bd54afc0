"""``python -m lineside.cli.health NAME``: whether one process of a stack does its work.

For health checks that run every few seconds, as those of containers: it imports little, so that a
check costs a small part of what a ``lineside`` command costs. The exit code is 0 or 1, beside one
sentence.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lineside.bus.errors import LinesideError
from lineside.bus.settings import DASHBOARD_PORT, EXPORTER_PORT, Settings

MAX_AGE_SECONDS = 30.0
"""A subscriber that has noted its progress longer ago hangs."""
MAX_LAG_SECONDS = 60.0
"""A subscriber that is further behind the broker does not keep up."""
MIN_FREE_BYTES = 16 << 20
"""With less on the disk of the journal, the broker can soon take no events."""
_BROKER_SECONDS = 4.0


class Health(NamedTuple):
    """Whether a process does its work, and a sentence on how it stands."""

    is_good: bool
    sentence: str


def broker(settings: Settings) -> Health:
    """The broker answers a reader, so it has its journal; and its disk has space for events."""
    from lineside.bus.client.reader import Reader
    from lineside.bus.errors import ReaderDenied
    from lineside.bus.protocol.messages import LIVE

    try:
        with Reader(settings.broker, start=LIVE, streams=("_none/_/_",), credit=1) as reader:
            reader.wait_connected(_BROKER_SECONDS)
            if settings.journal.exists() and (problem := _disk_problem(settings.journal.parent)):
                return Health(False, problem)
            return Health(True, f"the broker answers, its journal is at {reader.head:,}")
    except ReaderDenied:
        return Health(True, "the broker answers; this key may not read")


def _disk_problem(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free >= MIN_FREE_BYTES:
        return ""
    return f"the broker takes no events when its disk is full: {free:,} bytes are free in {folder}"


def shipper(settings: Settings) -> Health:
    """A shipper runs for the spool, and the broker confirms what it sends."""
    from lineside.emitter.spool.sidecar_process import ShipperStatus

    status = ShipperStatus.read(settings.spool)
    if status is None:
        return Health(False, f"no shipper runs for {settings.spool}")
    return Health(not status.problem, status.problem or f"a shipper sends {settings.spool}")


def subscriber(settings: Settings, name: str, now: Callable[[], float] = time.time) -> Health:
    """The subscriber ``name`` can do its work, and keeps up with the broker."""
    from lineside.subscribers.state.progress_file import Progress

    progress = Progress.read(settings.home, name)
    if progress is None:
        return Health(False, f"{name} has not begun on {settings.home}")
    age = now() - progress.written_at
    if age > MAX_AGE_SECONDS:
        return Health(False, f"{name} has made no progress for {age:.0f} s: it hangs or has ended")
    if progress.problem:
        return Health(False, f"{name}: {progress.problem}")
    if progress.lag_seconds > MAX_LAG_SECONDS:
        return Health(False, f"{name} is {progress.lag_seconds:.0f} s behind the broker")
    return Health(True, f"{name} keeps up")


def http(name: str, url: str) -> Health:
    """The server ``name`` answers 200 at ``url``."""
    from lineside.cli.stack.http_probe import http_problem

    problem = http_problem(url, timeout=_BROKER_SECONDS)
    return Health(problem is None, problem or f"the {name} is ready")


def check(settings: Settings, name: str, port: int | None = None) -> Health:
    """How the process ``name`` of the stack of ``settings`` is."""
    if name == "broker":
        return broker(settings)
    if name == "shipper":
        return shipper(settings)
    if name == "dashboard":
        return http(name, f"http://127.0.0.1:{port or DASHBOARD_PORT}/readyz")
    if name == "exporter":
        return http(name, f"http://127.0.0.1:{port or EXPORTER_PORT}/healthz")
    return subscriber(settings, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how a process is; the exit code is 0 if it does its work."""
    parser = argparse.ArgumentParser(
        prog="python -m lineside.cli.health",
        description="Report whether one process of a stack does its work: exit code 0, or 1.",
    )
    parser.add_argument(
        "name",
        help="broker, recorder, stopper, watchdog, callback-host, archiver, dashboard, exporter, "
        "shipper, or the name of a subscriber or an upload",
    )
    parser.add_argument(
        "--port", type=int, help="port of the dashboard or the exporter, if not the default"
    )
    options = parser.parse_args(arguments)
    try:
        found = check(Settings.from_env(), options.name, options.port)
    except (LinesideError, OSError) as error:
        found = Health(False, str(error))
    sys.stdout.write(f"{found.sentence}\n")
    return 0 if found.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
