"""Ships what training left in a spool, on request and with an account: ``lineside ship``."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.errors import BrokerUnreachable, KeyRefused
from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper.process_watcher import ProcessWatcher
from lineside.emitter.shipper.service import Shipper
from lineside.emitter.shipper.stream_sender import StreamSender
from lineside.emitter.spool import directory
from lineside.emitter.spool.shipper_process import shipper_pid

_REPORT_SECONDS = 0.5
_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class ShipResult:
    """What ``ship`` did so far.

    ``streams`` had something left; ``events`` of theirs were confirmed since, ``gaps`` reported as
    missing for good, ``left`` are not confirmed yet. ``holder`` is the process id of the shipper
    that does it if it is another one, else None.
    """

    streams: int = 0
    events: int = 0
    gaps: int = 0
    left: int = 0
    holder: int | None = None


def ship(
    spool: Path,
    broker: str,
    timeout: float | None = None,
    progress: Callable[[ShipResult], None] | None = None,
) -> ShipResult:
    """Ship what is left in ``spool`` until all of it is confirmed, ``timeout`` seconds at most.

    If another shipper holds the spool, waits for it to do so, and goes on itself if that one ends.
    Returns as soon as live producers have nothing unconfirmed either. ``progress`` is called about
    twice a second.

    Raises:
        AddressError: ``broker`` cannot be used.
        BrokerUnreachable: something is left, and no broker answered within ``timeout``.
        KeyRefused: something is left, and the broker did not take the key.
        SettingsError: the spool cannot be written.
    """
    if not spool.is_dir():
        return ShipResult()
    started = time.monotonic()
    deadline = started + (math.inf if timeout is None else timeout)
    tally = _ProgressTally(progress)
    shipper = Shipper(spool, broker)
    try:
        while not (
            _ship_until_confirmed(shipper, tally, deadline)
            if shipper.claim()
            else _wait_for_other_shipper(spool, tally, deadline)
        ):
            pass
    finally:
        shipper.shutdown()
    shipped = tally.state
    if shipped.left and shipped.holder is None and not shipper.broker_connection.has_answered:
        if shipper.broker_connection.refusal:
            raise KeyRefused(broker, shipper.broker_connection.refusal)
        raise BrokerUnreachable(broker, round(time.monotonic() - started, 1))
    return shipped


def _ship_until_confirmed(shipper: Shipper, tally: _ProgressTally, deadline: float) -> bool:
    while True:
        shipper.work()
        tally.update(shipper.stream_registry.other_senders, None)
        is_over = shipper.should_exit or time.monotonic() >= deadline
        if is_over or shipper.stream_registry.is_confirmed:
            tally.update(shipper.stream_registry.other_senders, None, last=True)
            return True


def _wait_for_other_shipper(spool: Path, tally: _ProgressTally, deadline: float) -> bool:
    """Until another shipper has done it; False if that one ended before."""
    while True:
        holder = shipper_pid(spool)
        if holder is None:
            return False
        existing = [_inspect(stream, folder) for stream, folder in directory.streams(spool)]
        done = (
            all(stream_sender.is_confirmed for stream_sender in existing)
            or time.monotonic() >= deadline
        )
        tally.update(existing, holder, last=done)
        for stream_sender in existing:
            stream_sender.close()
        if done:
            return True
        time.sleep(_WAIT_SECONDS)


def _inspect(stream: Stream, folder: Path) -> StreamSender:
    stream_sender = StreamSender(stream, folder, directory.acked_seq(folder))
    with contextlib.suppress(OSError):
        if ProcessWatcher(folder).is_gone(0.0):
            stream_sender.producer_gone()
            stream_sender.check_remaining(0.0)
    return stream_sender


class _ProgressTally:
    """Adds up what was seen of each stream."""

    def __init__(self, progress: Callable[[ShipResult], None] | None) -> None:
        self.state = ShipResult()
        self._progress = progress
        self._report_at = 0.0
        self._lowest: dict[Stream, int] = {}
        self._acked: dict[Stream, int] = {}
        self._gaps: dict[Stream, int] = {}
        self._left: dict[Stream, int] = {}

    def update(
        self, stream_senders: Iterable[StreamSender], holder: int | None, *, last: bool = False
    ) -> None:
        """How ``stream_senders`` stand now; looked at twice a second, and the ``last`` time."""
        now = time.monotonic()
        if now < self._report_at and not last:
            return
        self._report_at = now + _REPORT_SECONDS
        for stream_sender in stream_senders:
            stream = stream_sender.stream
            left = stream_sender.left()
            if left or stream in self._left:
                self._left[stream] = left
                self._gaps[stream] = stream_sender.gaps
                self._acked[stream] = stream_sender.acked
                self._lowest[stream] = min(
                    self._lowest.get(stream, stream_sender.acked), stream_sender.acked
                )
        gaps = sum(self._gaps.values())
        passed = sum(self._acked.values()) - sum(self._lowest.values())
        self.state = ShipResult(
            len(self._left), passed - gaps, gaps, sum(self._left.values()), holder
        )
        if self._progress is not None:
            self._progress(self.state)
