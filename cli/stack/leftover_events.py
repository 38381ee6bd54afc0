"""Sends the events of trainings that ran without a broker, once there is one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from lineside.bus.settings import Settings
from lineside.bus.wording import plural
from lineside.emitter.spool import backlog
from lineside.emitter.spool.sidecar_process import ShipperStarter, shipper_pid

CHECK_SECONDS = 30.0
"""Time between two looks into the spool."""


class LeftoverEvents:
    """Starts a shipper where events wait in the spool and no shipper runs, and reports how many."""

    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = settings.spool
        self._starter = ShipperStarter(settings.spool, settings.broker)
        self._report = report
        self._clock = clock
        self._last_check = -math.inf

    def send(self) -> None:
        """Look into the spool if it is time to; returns at once."""
        if self._clock() < self._last_check + CHECK_SECONDS:
            return
        self._last_check = self._clock()
        try:
            if shipper_pid(self._spool) is not None:
                return
            waiting = [one.left for one in backlog.unconfirmed(self._spool).values() if one.left]
        except OSError as error:
            self._report(f"the spool {self._spool} cannot be read: {error.strerror}")
            return
        if not waiting:
            return
        self._report(
            f"a shipper now sends {plural(sum(waiting), 'event')} of "
            f"{plural(len(waiting), 'stream')} left in {self._spool}"
        )
        self._starter.ensure()
        if self._starter.failure:
            self._report(f"the shipper cannot be started: {self._starter.failure}")
