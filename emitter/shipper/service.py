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
from lineside.emitter.shipper.send_window import SILENCE_SECONDS, SendWindow
from lineside.emitter.shipper.stream_registry import StreamRegistry
from lineside.emitter.spool import directory, liveness_lock
from lineside.emitter.spool.sidecar_process import (
    LOCK_NAME,
    LOG_NAME,
    ShipperStatus,
    rotate_log,
)
from lineside.emitter.spool.writer import CAP_BYTES

log = logging.getLogger("lineside")

_BUSY_SECONDS, _IDLE_SECONDS = 0.02, 0.25  # between sends
_CHECK_SECONDS = 1.0
# Between searches for new streams: this many times as long as the last one took, but never longer
# than the maximum, because adding many streams at once takes long too.
_DISCOVER_SHARE, _LONGEST_DISCOVER_SECONDS = 500.0, 3.0
_ANNOUNCED_SHARE = 4.0  # the same where a producer has announced a stream
_DRAIN_SECONDS = 2.0
_CONNECT_SECONDS = 1.0


@dataclass(frozen=True)
class ShipperLimits:
    """When a shipper ends, and what it keeps; times in seconds, sizes in bytes.

    The shipper ends when everything is confirmed and nothing new came for ``idle_timeout``, or when
    no producer lives and the broker was silent for ``broker_timeout``: for ``first_timeout`` if it
    has never answered. Confirmed segments are kept for ``retention``, less when a producer has more
    than half of ``cap``. A shipper that is ended works on until everything is confirmed, for
    ``drain`` at most: where the spool is lost with it, as in a container.
    """

    idle_timeout: float = 10.0
    broker_timeout: float = 600.0
    first_timeout: float = 60.0
    retention: float = RETENTION_SECONDS
    cap: int = CAP_BYTES
    drain: float = 0.0


class Shipper(Service):
    """Ships the streams under ``spool`` to ``broker``, unless another shipper does.

    Raises:
        AddressError: ``broker`` cannot be used.
    """

    name = "shipper"

    def __init__(self, spool: Path, broker: str, limits: ShipperLimits | None = None) -> None:
        super().__init__()
        self._spool = spool
        self._broker = broker
        self._limits = limits or ShipperLimits()
        self._lock: int | None = None
        self.broker_connection = BrokerConnection(broker)
        self.stream_registry = StreamRegistry(spool, self.broker_connection)
        self._send_window = SendWindow(self.broker_connection, self.stream_registry)
        self._disk_worker = DiskWorker(self._limits.cap, self._limits.retention)
        now = time.monotonic()
        self._discover_at = self._check_at = self._send_at = 0.0
        self._announced_ns, self._look_at = 0, 0.0
        self._status: ShipperStatus | None = None
        self._interval = _BUSY_SECONDS
        self._was_full = False
        self._busy_at = self._live_at = now

    def startup(self) -> None:
        """Take the spool's lock; if another shipper has it, end, or wait as a service.

        Raises:
            SettingsError: the spool cannot be made or written.
        """
        if not self.claim():
            log.info("shipper: another one ships %s", self._spool)
            self.should_exit = math.isfinite(self._limits.idle_timeout)

    def claim(self) -> bool:
        """Take the spool's lock; False if another shipper has it.

        Raises:
            SettingsError: the spool cannot be made or written.
        """
        make_private_folder(self._spool)
        self._lock = liveness_lock.acquire(self._spool / LOCK_NAME)
        if self._lock is None:
            return False
        raise_file_limit()
        self._status = None
        self._report(time.monotonic())
        return True

    def run_once(self) -> None:
        """Work once, and end if nothing is left to do."""
        if self._lock is None:
            time.sleep(_CHECK_SECONDS)
            self.claim()
            return
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
        if now >= self._discover_at or self._has_announcement(now):
            if self.stream_registry.discover(now):
                self._interval, self._send_at = _BUSY_SECONDS, now
            took = time.monotonic() - now
            pause = max(_CHECK_SECONDS, _DISCOVER_SHARE * took)
            self._discover_at = now + min(pause, _LONGEST_DISCOVER_SECONDS)
            self._look_at = now + _ANNOUNCED_SHARE * took
        is_due = now >= self._check_at
        checked = is_due or self.broker_connection.fd_ready
        if checked:
            self.broker_connection.fd_ready = False
            self.stream_registry.check_producers(now, beat=is_due)
        if is_due:
            self._check_at = now + _CHECK_SECONDS
            self._check_lock()
            self._report(now)
            self._disk_worker.submit(self.stream_registry.stream_states(), now)
            rotate_log(self._spool / LOG_NAME)
        room = self._was_full and not self._send_window.is_full
        if checked or room or now >= self._send_at:
            self._adapt_interval(self._send_window.send(now))
            self._send_at = now + self._interval
            self._was_full = self._send_window.is_full
        self._send_window.receive(min(self._send_at, self._check_at) - time.monotonic())

    def _has_announcement(self, now: float) -> bool:
        """Whether a producer has made a stream, or opened one again, since the last call."""
        if now < self._look_at:
            return False
        try:
            announced_ns = self._spool.stat().st_mtime_ns
        except OSError:
            return False
        before, self._announced_ns = self._announced_ns, announced_ns
        return announced_ns != before

    def _report(self, now: float) -> None:
        """Store in the lock which broker this process ships to, and what is wrong with it."""
        status = ShipperStatus(os.getpid(), self._broker, self._problem(now), os.geteuid())
        if status != self._status and self._lock is not None:
            self._status = status
            with contextlib.suppress(OSError):
                status.write(self._lock)

    def _problem(self, now: float) -> str:
        """Why something is not confirmed, in one sentence; empty while all is well."""
        connection, broker = self.broker_connection, self._broker.partition("?")[0]
        if connection.refusal:
            return f"{broker} refuses the key: {connection.refusal}"
        if self.stream_registry.is_confirmed:
            return self._foreign_problem()
        patience = SILENCE_SECONDS if connection.has_answered else _CONNECT_SECONDS
        if now - connection.last_received >= patience:
            return f"no broker answers at {broker}"
        refusals = {sender.refusal for sender in self.stream_registry if sender.refusal}
        return f"the broker at {broker} answers {min(refusals)}" if refusals else ""

    def _foreign_problem(self) -> str:
        found = directory.foreign_runs(self._spool)
        if not found:
            return ""
        with contextlib.suppress(OSError):
            owner = found[0].stat().st_uid
            return (
                f"user {os.geteuid()} may not read {found[0]} of user {owner}: run training and "
                "shipper as one user"
            )
        return ""

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
            self._work_until_confirmed(time.monotonic() + self._limits.drain)
            self._drain(time.monotonic() + _DRAIN_SECONDS)
            self._disk_worker.submit(self.stream_registry.stream_states(), math.inf)
        self._disk_worker.shutdown(_DRAIN_SECONDS)
        self.stream_registry.close()
        self.broker_connection.close()
        self._release()

    def _work_until_confirmed(self, until: float) -> None:
        registry = self.stream_registry
        self._discover_at = self._check_at = 0.0  # producers may have ended just now
        while time.monotonic() < until:
            self.work()
            if registry.is_confirmed and (registry.has_live_producers or registry.is_complete):
                return

    def _drain(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            events = self._send_window.send(now)
            self._send_window.receive(_BUSY_SECONDS)
            if not events and not self._send_window.outstanding:
                return

    def _is_done(self, now: float) -> bool:
        if self.stream_registry.has_live_producers:
            self._live_at = self._busy_at = now
            return False
        if not self.stream_registry.is_complete:
            self._busy_at = now
        if now - self._busy_at >= self._limits.idle_timeout:
            return True
        connection, limits = self.broker_connection, self._limits
        timeout = limits.broker_timeout if connection.has_answered else limits.first_timeout
        return now - max(self._live_at, connection.last_received) >= timeout

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
