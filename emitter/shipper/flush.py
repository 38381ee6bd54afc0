"""Ships the events that training left in a spool, and counts them: ``lineside ship``."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lineside.bus.errors import BrokerUnreachable, KeyRefused, UsageError
from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper.service import Shipper
from lineside.emitter.spool import backlog
from lineside.emitter.spool.sidecar_process import ShipperStatus

_REPORT_SECONDS = 0.5
_WAIT_SECONDS = 0.1
_REPORT_PROBLEM_SECONDS = 6.0  # within which a shipper notices that its broker does not answer


@dataclass(frozen=True)
class ShipResult:
    """The result of ``ship`` so far.

    ``streams`` had unconfirmed events. Of theirs, ``events`` were confirmed since, ``gaps`` were
    reported as missing for good, and ``left`` are not confirmed yet. ``holder`` is the process id
    of another shipper that ships the spool, None if this process does.
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
    """Ship everything in ``spool`` until it is confirmed, for at most ``timeout`` seconds.

    If another shipper holds the spool, waits for it, and takes over if it ends first. One whose
    own broker is another and does not confirm is ended. Live producers do not delay the return once
    all their events so far are confirmed. ``progress`` is called about twice a second.

    Raises:
        AddressError: ``broker`` cannot be used.
        UsageError: events are left, and another shipper sends them to another broker.
        BrokerUnreachable: events are left, and no broker answered within ``timeout``.
        KeyRefused: events are left, and the broker refused the key.
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
            else _wait_for_other_shipper(spool, broker, tally, deadline)
        ):
            pass
    finally:
        shipper.shutdown()
    shipped = tally.result
    if shipped.left and shipped.holder is None and not shipper.broker_connection.has_answered:
        if shipper.broker_connection.refusal:
            raise KeyRefused(broker, shipper.broker_connection.refusal)
        raise BrokerUnreachable(broker, round(time.monotonic() - started, 1))
    return shipped


def _ship_until_confirmed(shipper: Shipper, tally: _ProgressTally, deadline: float) -> bool:
    registry = shipper.stream_registry
    while True:
        shipper.work()
        done = shipper.should_exit or time.monotonic() >= deadline or registry.is_confirmed
        if tally.is_due or done:
            counts = {
                sender.stream: _Counts(sender.acked, sender.left(), sender.gaps)
                for sender in registry.other_senders
            }
            tally.update(counts, None)
        if done:
            return True


def _wait_for_other_shipper(
    spool: Path, broker: str, tally: _ProgressTally, deadline: float
) -> bool:
    """Wait until another shipper is done; False if it ended before."""
    well_until = time.monotonic() + _REPORT_PROBLEM_SECONDS
    ended: int | None = None
    while True:
        holder = ShipperStatus.read(spool)
        if holder is None:
            return False
        counts = {stream: _Counts(*found) for stream, found in backlog.unconfirmed(spool).items()}
        done = not any(count.left for count in counts.values()) or time.monotonic() >= deadline
        if tally.is_due or done:
            tally.update(counts, holder.pid)
        if done:
            return True
        if holder.pid != ended and holder.broker not in ("", broker):
            if holder.problem:
                _end(holder, spool)
                ended = holder.pid
            elif time.monotonic() >= well_until:
                raise _in_use(holder, spool, "which takes them; ship to that one")
        time.sleep(_WAIT_SECONDS)


def _end(holder: ShipperStatus, spool: Path) -> None:
    """Ask a shipper to end: its broker does not confirm what it sends."""
    if holder.pid <= 0:
        raise _in_use(holder, spool, "from another machine or container; end it there")
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise _in_use(holder, spool, "as another user; end it as that user") from error


def _in_use(holder: ShipperStatus, spool: Path, how: str) -> UsageError:
    broker = holder.broker.partition("?")[0]
    return UsageError(f"process {holder.pid} ships {spool} to {broker}, {how}")


class _Counts(NamedTuple):
    """The counts of one stream; ``lowest`` is the first ``acked`` seen."""

    acked: int
    left: int
    gaps: int = 0
    lowest: int = 0


class _ProgressTally:
    """Adds up the counts of all streams that had unconfirmed events."""

    def __init__(self, progress: Callable[[ShipResult], None] | None) -> None:
        self.result = ShipResult()
        self._progress = progress
        self._report_at = 0.0
        self._counts: dict[Stream, _Counts] = {}

    @property
    def is_due(self) -> bool:
        """Whether the last update is half a second ago."""
        return time.monotonic() >= self._report_at

    def update(self, counts: dict[Stream, _Counts], holder: int | None) -> None:
        """Take the present ``counts``, and report progress."""
        self._report_at = time.monotonic() + _REPORT_SECONDS
        for stream, new in counts.items():
            known = self._counts.get(stream)
            if new.left or known is not None:
                lowest = min(known.lowest if known else new.acked, new.acked)
                self._counts[stream] = new._replace(lowest=lowest)
        every = self._counts.values()
        gaps = sum(one.gaps for one in every)
        passed = sum(one.acked - one.lowest for one in every)
        left = sum(one.left for one in every)
        self.result = ShipResult(len(every), passed - gaps, gaps, left, holder)
        if self._progress is not None:
            self._progress(self.result)
