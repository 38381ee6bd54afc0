"""Waits until the bus has confirmed what this process wrote into a spool."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.errors import AddressError
from lineside.bus.protocol import addresses
from lineside.emitter.spool import directory
from lineside.emitter.spool.sidecar_process import LOG_NAME, ShipperStarter, ShipperStatus

_FIRST_DELAY, _LONGEST_DELAY = 0.001, 0.02
_ENSURE_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Unconfirmed:
    """Events before ``end`` of the stream in ``folder`` that the bus has yet to confirm.

    ``is_reported`` is False where another process of the machine names the spool to the user.
    """

    folder: Path
    end: int
    shipper_starter: ShipperStarter
    is_reported: bool = True

    @property
    def is_confirmed(self) -> bool:
        """Whether the bus has confirmed all of them; the shipper removes the folder after that."""
        try:
            return directory.acked_seq(self.folder) >= self.end or not self.folder.exists()
        except OSError:  # no descriptor is free
            return False


def wait_confirmed(pending: Sequence[Unconfirmed], deadline: float) -> bool:
    """Wait until ``deadline`` (monotonic seconds); whether everything is confirmed by then.

    Starts a shipper again about once a second if there is none.
    """
    delay, ensured_at = _FIRST_DELAY, time.monotonic()
    while not all(one.is_confirmed for one in pending):
        now = time.monotonic()
        if now >= deadline:
            return False
        if now - ensured_at >= _ENSURE_SECONDS:
            ensured_at = now
            for starter in {one.shipper_starter for one in pending}:
                starter.ensure()
        time.sleep(min(delay, deadline - now))
        delay = min(delay * 2, _LONGEST_DELAY)
    return True


def explain_unusable(broker: str, spool: Path) -> str | None:
    """Why nothing that this process writes into ``spool`` can be sent; None if it can."""
    try:
        addresses.parse(broker)
    except AddressError as error:
        return f"events are kept in {spool}: {error}, then {_ship(spool)} sends them"
    return _explain_foreign_shipper(spool)


def explain_unconfirmed(starter: ShipperStarter) -> str:
    """Why the last events of a spool are not confirmed, where they are, and what sends them."""
    spool, broker = starter.spool, starter.broker.partition("?")[0]
    unusable = explain_unusable(starter.broker, spool)
    if unusable is not None:
        return unusable
    remedy = f"{_ship(spool)} sends them"
    try:
        status = ShipperStatus.read(spool)
    except OSError as error:
        why = f"the shipper's lock cannot be read: {error}"
    else:
        if starter.failure is not None:
            why = f"no shipper can be started: {starter.failure}"
        elif status is None:
            why = f"no shipper runs (its log is {spool / LOG_NAME})"
        else:
            why = status.problem or f"{broker} has not confirmed them yet"
        up = "start `lineside up`, " if broker.startswith("ipc://") else ""
        remedy = f"{up}then {remedy}"
    return f"the last events are not confirmed: {why}. They are kept in {spool}: {remedy}"


def _explain_foreign_shipper(spool: Path) -> str | None:
    """What to do about a shipper that may not read this user's files; None if it may."""
    try:
        status = ShipperStatus.read(spool)
    except OSError:
        return None
    user = os.geteuid()
    if status is None or status.user in (None, 0, user):
        return None
    return (
        f"events are kept in {spool}, whose shipper runs as user {status.user} and may not read "
        f"what user {user} writes: run both as one user, or set LINESIDE_SPOOL to another folder"
    )


def _ship(spool: Path) -> str:
    return f"`lineside ship --spool {spool}`"
