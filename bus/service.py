"""The life of a process: start, loop until told to stop, shut down. Signals are installed here."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from types import FrameType

from lineside.bus.text import printable

log = logging.getLogger("lineside")

_LOW_FILE_LIMIT = 1024
SUPERVISOR_PID = "LINESIDE_SUPERVISOR_PID"
"""Set by a supervisor for its children, which end when it is no longer their parent."""


class Service:
    """Base of every long-lived process of ours.

    A subclass fills in ``startup``, ``turn`` (one bounded piece of work: it returns within half a
    second when there is nothing to do) and ``shutdown``. ``serve`` runs them until ``should_exit``.
    """

    name = "service"

    def __init__(self) -> None:
        self.should_exit = False
        self._supervisor = int(os.environ.get(SUPERVISOR_PID, "0"))

    def startup(self) -> None:
        """Open what is needed; raise a LinesideError if it cannot be had."""

    def run_once(self) -> None:
        """One bounded piece of work."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Close what was opened; called once, also after an error."""

    def serve(self) -> None:
        """Run until SIGINT, SIGTERM, ``should_exit`` or the supervisor's end."""
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


def raise_file_limit() -> None:
    """Raise the number of files this process may open as far as it may, and say so if that is not
    far: libzmq aborts the process when it can open no more."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if 0 <= hard < _LOW_FILE_LIMIT:
            log.warning(
                "this process may open only %d files, and each connection takes one: it ends when "
                "they are used up; raise what `ulimit -Hn` says",
                hard,
            )


def configure_logging(level: str = "INFO") -> None:
    """Log lines of a process of ours go to stderr, one format for all, each on one line."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _OneLineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.basicConfig(level=level, handlers=[handler])


class _OneLineFormatter(logging.Formatter):
    """A message may hold what somebody asked for who is not even let in."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))
