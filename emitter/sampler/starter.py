"""Starts the sampler beside a training process, and starts it again when it has ended."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import platform
import re
import sys
from pathlib import Path

from lineside.bus.protocol.events import SAMPLER_PREFIX
from lineside.emitter.spool.sidecar_process import SidecarStarter, lock_holder

EXTRA = "lineside[system]"
_MODULE = "lineside.emitter.sampler"
_MAX_NAME = 100
_MAX_FAILURES = 5  # starts in a row, over half a minute


def sampler_name() -> str:
    """The producer of this machine's metrics, ``sampler-<host>``.

    Also the name of the sampler's lock and log in the spool, which machines may share.
    """
    host = re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()) or "host"
    return f"{SAMPLER_PREFIX}{host}"[:_MAX_NAME]


def lock_name() -> str:
    """The name of the file in the spool that this machine's sampler locks."""
    return f"{sampler_name()}.lock"


def log_name() -> str:
    """The name of the file in the spool that has the sampler's messages."""
    return f"{sampler_name()}.log"


class SamplerStarter(SidecarStarter):
    """Keeps a sampler running for the trainings of ``spool`` on this machine.

    It gives up after five failed starts in a row: training goes on without these metrics.
    """

    def __init__(self, spool: Path, broker: str) -> None:
        super().__init__(
            spool,
            broker,
            module=_MODULE,
            lock_name=lock_name(),
            log_name=log_name(),
            max_failures=_MAX_FAILURES,
        )


@functools.cache
def sampler_starter(spool: Path, broker: str) -> SamplerStarter:
    """The starter of this process for ``spool``, for all its runs."""
    return SamplerStarter(spool, broker)


def stopped_sampler(spool: Path) -> str | None:
    """Why there are no system metrics, if this machine's sampler of ``spool`` is stopped.

    A process that a SIGSTOP or a debugger has stopped keeps its lock, so no other one samples.
    """
    with contextlib.suppress(OSError, IndexError):
        pid = lock_holder(spool / lock_name())
        if pid is None or pid <= 0:  # of another container, where its state cannot be seen
            return None
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        if stat.rpartition(b")")[2].split()[0] in (b"T", b"t"):
            return (
                f"no system metrics: the sampler, process {pid}, is stopped; "
                f"`kill -CONT {pid}` lets it go on"
            )
    return None


def missing_package(remedy: str = "set LINESIDE_SAMPLER=0") -> str | None:
    """Why no sampler can run in this environment; None if one can. ``remedy`` turns it off.

    Only looks for the package: the training process must not import it.
    """
    try:
        if importlib.util.find_spec("psutil") is not None:
            return None
    except ImportError:
        pass
    except ValueError:  # a module of this name that the script has made
        return None
    return (
        f"no system metrics: {sys.executable or 'this Python'} has no psutil; "
        f"pip install '{EXTRA}', or {remedy}"
    )
