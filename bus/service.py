"""The life of a process: startup, main loop, shutdown. Signal handlers are installed here."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path
from types import FrameType

from lineside.bus.terminal_text import printable

log = logging.getLogger("lineside")

SUPERVISOR_PID = "LINESIDE_SUPERVISOR_PID"
"""The variable that a supervisor sets for its children: they exit when the supervisor does."""
_NICENESS = 10


class Service:
    """The base class of every long-lived process of Lineside.

    A subclass fills in ``startup``, ``turn`` (one bounded piece of work: it returns within half a
    second when there is nothing to do) and ``shutdown``. ``serve`` runs them until ``should_exit``.
    """

    name = "service"

    def __init__(self) -> None:
        self.should_exit = False
        self._supervisor = int(os.environ.get(SUPERVISOR_PID, "0"))

    def startup(self) -> None:
        """Open files and connections.

        Raises:
            LinesideError: one cannot be opened.
        """

    def run_once(self) -> None:
        """Do one bounded piece of work."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Close what ``startup`` opened. Called once, also after an error."""

    def serve(self) -> None:
        """Run until SIGINT, SIGTERM, ``should_exit`` or the exit of the supervisor."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            self.startup()
            log.info("%s: started, pid %d", self.name, os.getpid())
            while not self.should_exit:
                self.run_once()
                if self._supervisor and os.getppid() != self._supervisor:
                    log.warning("%s: the supervisor is gone, ending", self.name)
                    break
        finally:
            self.shutdown()
        log.info("%s: ended", self.name)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.should_exit = True


def lower_priority() -> None:
    """Give a training on the same machine the first claim to its cores.

    The niceness of a process counts only among those of its session where Linux groups processes by
    session (``sched_autogroup``), so the session's own is set as well.
    """
    os.nice(_NICENESS)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # there is no such grouping here
            Path("/proc/self/autogroup").write_text(str(_NICENESS))


def configure_logging(level: str = "INFO") -> None:
    """Log to stderr in the format of every process of Lineside, one line for each record."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _OneLineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.basicConfig(level=level, handlers=[handler])


class _OneLineFormatter(logging.Formatter):
    """Escapes control characters: a message may hold text of a client that was refused."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))
