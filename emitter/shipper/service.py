"""The shipper: carries every stream of a spool root to the broker, and watches who writes them.

Run as ``python -m lineside.emitter.shipper`` with LINESIDE_SPOOL and LINESIDE_BROKER. One process
does it for a spool root; it ends by itself when nothing is left to do.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.errors import LinesideError
from lineside.bus.service import Service, configure_logging, raise_file_limit
from lineside.bus.settings import Settings, make_private_folder
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.disk_worker import RETENTION_SECONDS, DiskWorker
from lineside.emitter.shipper.send_window import SendWindow
from lineside.emitter.shipper.stream_registry import StreamRegistry
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.shipper_process import DETACH, LOCK_NAME, LOG_NAME
from lineside.emitter.spool.writer import CAP_BYTES

log = logging.getLogger("lineside")

_BUSY_SECONDS, _IDLE_SECONDS = 0.02, 0.25  # between looks for new events
_CHECK_SECONDS = 1.0
# A new stream is found this late at most, however long looking took: taking charge of many at once
# counts as looking too.
_LONGEST_DISCOVER_SECONDS = 3.0
_DISCOVER_SHARE = 500.0  # looking through a spool of thousands of folders is made this much rarer
_DRAIN_SECONDS = 2.0
_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class ShipperLimits:
    """What a shipper holds itself to; times in seconds, sizes in bytes.

    The shipper ends when everything is confirmed and nothing new came for ``idle_timeout``, or when
    no producer lives and the broker was silent for ``broker_timeout``. Confirmed segments are kept
    for ``retention``, less when a producer has more than half of ``cap``.
    """

    idle_timeout: float = 10.0
    broker_timeout: float = 600.0
    retention: float = RETENTION_SECONDS
    cap: int = CAP_BYTES


class Shipper(Service):
    """Ships the streams under ``spool`` to ``broker``, unless another shipper does.

    Raises:
        AddressError: ``broker`` cannot be used.
    """

    name = "shipper"

    def __init__(self, spool: Path, broker: str, limits: ShipperLimits | None = None) -> None:
        super().__init__()
        self._spool = spool
        self._limits = limits or ShipperLimits()
        self._lock: int | None = None
        self.broker_connection = BrokerConnection(broker)
        self.stream_registry = StreamRegistry(spool, self.broker_connection)
        self._send_window = SendWindow(self.broker_connection, self.stream_registry)
        self._disk_worker = DiskWorker(self._limits.cap, self._limits.retention)
        now = time.monotonic()
        self._discover_at = self._check_at = self._send_at = 0.0
        self._interval = _BUSY_SECONDS
        self._was_full = False
        self._busy_at = self._live_at = now

    def startup(self) -> None:
        """Take the spool's lock, or say that there is nothing to do.

        Raises:
            SettingsError: the spool cannot be made or written.
        """
        if not self.claim():
            log.info("shipper: another one ships %s", self._spool)
            self.should_exit = True
        else:
            raise_file_limit()

    def claim(self) -> bool:
        """Take the spool's lock; False if another shipper has it.

        Raises:
            SettingsError: the spool cannot be made or written.
        """
        make_private_folder(self._spool)
        self._lock = liveness_lock.acquire(self._spool / LOCK_NAME)
        return self._lock is not None

    def run_once(self) -> None:
        """Find, watch, send, hear, or end."""
        self.work()
        if self._is_done(time.monotonic()):
            self._exit_unless_needed()

    def work(self) -> None:
        """Find, watch, send, hear; takes a quarter of a second when there is nothing to do."""
        try:
            self._work(time.monotonic())
        except Exception:
            log.exception("shipper: a turn failed")
            time.sleep(_CHECK_SECONDS)  # whatever it was, not in a busy loop

    def _work(self, now: float) -> None:
        if now >= self._discover_at:
            self.stream_registry.discover(now)
            took = time.monotonic() - now
            pause = max(_CHECK_SECONDS, _DISCOVER_SHARE * took)
            self._discover_at = now + min(pause, _LONGEST_DISCOVER_SECONDS)
        is_due = now >= self._check_at
        checked = is_due or self.broker_connection.fd_ready
        if checked:
            self.broker_connection.fd_ready = False
            self.stream_registry.check_producers(now, beat=is_due)
        if is_due:
            self._check_at = now + _CHECK_SECONDS
            self._check_lock()
            self._disk_worker.submit(self.stream_registry.stream_states(), now)
            _rotate_log(self._spool / LOG_NAME)
        room = self._was_full and not self._send_window.is_full
        if checked or room or now >= self._send_at:
            self._adapt_interval(self._send_window.send(now))
            self._send_at = now + self._interval
            self._was_full = self._send_window.is_full
        self._send_window.receive(min(self._send_at, self._check_at) - time.monotonic())

    def _check_lock(self) -> None:
        """End if somebody removed the spool or its lock: another shipper may be there by now."""
        try:
            seen = (self._spool / LOCK_NAME).stat()
        except FileNotFoundError:
            seen = None
        if self._lock is not None and (
            seen is None or not os.path.samestat(os.fstat(self._lock), seen)
        ):
            log.warning("shipper: the lock of %s was removed, ending", self._spool)
            self.should_exit = True

    def _adapt_interval(self, events: int) -> None:
        """Look about as often as events come: each look costs the trainer's machine a little."""
        if events > 1:
            self._interval = max(self._interval / 2, _BUSY_SECONDS)
        elif not events:
            self._interval = min(self._interval * 2, _IDLE_SECONDS)

    def shutdown(self) -> None:
        """Send what the broker takes at once; the rest stays for the next shipper."""
        if self._lock is not None:
            self._drain(time.monotonic() + _DRAIN_SECONDS)
            self._disk_worker.submit(self.stream_registry.stream_states(), math.inf)
        self._disk_worker.end(_DRAIN_SECONDS)
        self.stream_registry.close()
        self.broker_connection.close()
        self._release()

    def _drain(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            events = self._send_window.send(now)
            self._send_window.receive(_BUSY_SECONDS)
            if not events and not self._send_window.outstanding:
                return

    def _is_done(self, now: float) -> bool:
        if self.stream_registry.has_live_producers:
            self._live_at = self._busy_at = now
        elif not self.stream_registry.is_complete:
            self._busy_at = now
        if now - self._busy_at >= self._limits.idle_timeout:
            return True
        return (
            now - max(self._live_at, self.broker_connection.last_received)
            >= self._limits.broker_timeout
        )

    def _exit_unless_needed(self) -> None:
        """End, unless a producer came that saw the lock held and so started no shipper."""
        self._release()
        now = time.monotonic()
        if self.stream_registry.discover(now) and self.claim():
            self._busy_at = self._live_at = now
        else:
            self.should_exit = True

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def main() -> None:
    """Ship what the environment names until there is nothing left to do."""
    configure_logging()
    logging.raiseExceptions = False  # a full disk under the log is no reason to fail
    try:
        settings = Settings.from_env()
        if DETACH in sys.argv[1:]:
            _daemonize(settings.spool / LOCK_NAME)
        Shipper(settings.spool, settings.broker).serve()
    except LinesideError as error:
        log.error("shipper: %s", error)  # noqa: TRY400 - the sentence says it all
        sys.exit(error.exit_code)


def _daemonize(lock: Path) -> None:
    """Go on in a child; this process ends once that one, or another shipper, has the lock."""
    try:
        shipper = os.fork()
    except OSError:
        return
    if not shipper:
        os.setsid()
        return
    with contextlib.suppress(OSError):
        while os.waitpid(shipper, os.WNOHANG) == (0, 0):
            with contextlib.suppress(FileNotFoundError):
                if liveness_lock.holder_pid(lock) is not None:
                    break
            time.sleep(0.02)
    os._exit(0)


def _rotate_log(path: Path) -> None:
    """Begin a new log when the one that stderr goes to has become long; the last one is kept."""
    with contextlib.suppress(OSError):
        stderr = os.fstat(2)
        if stderr.st_size > _LOG_BYTES and os.path.samestat(stderr, path.stat()):
            path.replace(path.with_name(f"{path.name}.1"))
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(fd, 2)
            os.close(fd)
