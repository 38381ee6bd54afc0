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
from lineside.emitter.shipper.shipper import Shipper
from lineside.emitter.shipper.transfer import Transfer
from lineside.emitter.shipper.watch import Watch
from lineside.emitter.spool import yard
from lineside.emitter.spool.sidecar import shipper_pid

_REPORT_SECONDS = 0.5
_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Shipped:
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
    progress: Callable[[Shipped], None] | None = None,
) -> Shipped:
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
        return Shipped()
    started = time.monotonic()
    deadline = started + (math.inf if timeout is None else timeout)
    account = _Account(progress)
    shipper = Shipper(spool, broker)
    try:
        while not (
            _ship(shipper, account, deadline)
            if shipper.claim()
            else _wait(spool, account, deadline)
        ):
            pass
    finally:
        shipper.shutdown()
    shipped = account.state
    if shipped.left and shipped.holder is None and not shipper.link.answered:
        if shipper.link.refused:
            raise KeyRefused(broker, shipper.link.refused)
        raise BrokerUnreachable(broker, round(time.monotonic() - started, 1))
    return shipped


def _ship(shipper: Shipper, account: _Account, deadline: float) -> bool:
    while True:
        shipper.work()
        account.note(shipper.charges.others, None)
        is_over = shipper.should_exit or time.monotonic() >= deadline
        if is_over or shipper.charges.delivered:
            account.note(shipper.charges.others, None, last=True)
            return True


def _wait(spool: Path, account: _Account, deadline: float) -> bool:
    """Until another shipper has done it; False if that one ended before."""
    while True:
        holder = shipper_pid(spool)
        if holder is None:
            return False
        there = [_on_disk(stream, folder) for stream, folder in yard.streams(spool)]
        done = all(transfer.delivered for transfer in there) or time.monotonic() >= deadline
        account.note(there, holder, last=done)
        for transfer in there:
            transfer.close()
        if done:
            return True
        time.sleep(_WAIT_SECONDS)


def _on_disk(stream: Stream, folder: Path) -> Transfer:
    transfer = Transfer(stream, folder, yard.position(folder))
    with contextlib.suppress(OSError):
        if Watch(folder).is_gone(0.0):
            transfer.producer_gone()
            transfer.check(0.0)
    return transfer


class _Account:
    """Adds up what was seen of each stream."""

    def __init__(self, progress: Callable[[Shipped], None] | None) -> None:
        self.state = Shipped()
        self._progress = progress
        self._report_at = 0.0
        self._lowest: dict[Stream, int] = {}
        self._acked: dict[Stream, int] = {}
        self._gaps: dict[Stream, int] = {}
        self._left: dict[Stream, int] = {}

    def note(
        self, transfers: Iterable[Transfer], holder: int | None, *, last: bool = False
    ) -> None:
        """How ``transfers`` stand now; looked at twice a second, and the ``last`` time."""
        now = time.monotonic()
        if now < self._report_at and not last:
            return
        self._report_at = now + _REPORT_SECONDS
        for transfer in transfers:
            stream = transfer.stream
            left = transfer.left()
            if left or stream in self._left:
                self._left[stream] = left
                self._gaps[stream] = transfer.gaps
                self._acked[stream] = transfer.acked
                self._lowest[stream] = min(self._lowest.get(stream, transfer.acked), transfer.acked)
        gaps = sum(self._gaps.values())
        passed = sum(self._acked.values()) - sum(self._lowest.values())
        self.state = Shipped(len(self._left), passed - gaps, gaps, sum(self._left.values()), holder)
        if self._progress is not None:
            self._progress(self.state)
