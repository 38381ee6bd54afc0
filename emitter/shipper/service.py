"""The shipper: sends every stream of a spool root to the broker, and watches the producers.

One process serves a spool root. It ends by itself when nothing is left to do.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.service import Service
from lineside.bus.settings import make_private_folder
from lineside.bus.sockets import raise_file_limit
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.disk_worker import RETENTION_SECONDS, DiskWorker
from lineside.emitter.shipper.send_window import SendWindow
from lineside.emitter.shipper.stream_registry import StreamRegistry
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.protected_file import open_private
from lineside.emitter.spool.shipper_process import LOCK_NAME, LOG_NAME
from lineside.emitter.spool.writer import CAP_BYTES

log = logging.getLogger("lineside")

_BUSY_SECONDS, _IDLE_SECONDS = 0.02, 0.25  # between sends
_CHECK_SECONDS = 1.0
# Between searches for new streams: this many times as long as the last one took, but never longer
# than the maximum, because adding many streams at once takes long too.
_DISCOVER_SHARE, _LONGEST_DISCOVER_SECONDS = 500.0, 3.0
_DRAIN_SECONDS = 2.0
_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class ShipperLimits:
    """When a shipper ends, and what it keeps; times in seconds, sizes in bytes.

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
        """Take the spool's lock, or end if another shipper has it.

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
        """Work once, and end if nothing is left to do."""
        self.work()
        if self._is_done(time.monotonic()):
            self._exit_unless_needed()

    def work(self) -> None:
        """Check the streams, send and receive; takes up to 0.25 s when there is nothing to do."""
        try:
            self._work(time.monotonic())
        except Exception:
            log.exception("shipper: a turn failed")
            time.sleep(_CHECK_SECONDS)  # never repeat a failure in a busy loop

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
        """End if the spool or its lock was removed: another shipper may hold a new one."""
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
        """Send about as often as events come: each turn costs the trainer's machine CPU time."""
        if events > 1:
            self._interval = max(self._interval / 2, _BUSY_SECONDS)
        elif not events:
            self._interval = min(self._interval * 2, _IDLE_SECONDS)

    def shutdown(self) -> None:
        """Send what the broker accepts now; the rest stays for the next shipper."""
        if self._lock is not None:
            self._drain(time.monotonic() + _DRAIN_SECONDS)
            self._disk_worker.submit(self.stream_registry.stream_states(), math.inf)
        self._disk_worker.shutdown(_DRAIN_SECONDS)
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
        """End, unless a new producer saw the lock held and so started no shipper.

        The order closes the race: release the lock, look for streams, take the lock again.
        """
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


def _rotate_log(path: Path) -> None:
    """Start a new log when the file behind stderr has become long; the last one is kept."""
    with contextlib.suppress(OSError):
        stderr = os.fstat(2)
        if stderr.st_size > _LOG_BYTES and os.path.samestat(stderr, path.stat()):
            path.replace(path.with_name(f"{path.name}.1"))
            with open_private(path, os.O_WRONLY | os.O_APPEND) as fd:
                os.dup2(fd, 2)
