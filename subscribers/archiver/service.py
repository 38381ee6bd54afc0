"""The process ``lineside archiver``."""

from __future__ import annotations

import contextlib
import logging

from lineside.bus.checkpoints.hold import HOLD_FILE, HoldLimits, write_limits
from lineside.bus.service import lower_priority
from lineside.bus.settings import Settings
from lineside.subscribers.archiver.archiver import Archiver
from lineside.subscribers.archiver.outcomes import ArchiveStatus
from lineside.subscribers.archiver.slots import Slots
from lineside.subscribers.archiver.tasks import ArchiveWork
from lineside.subscribers.service import SubscriberService

log = logging.getLogger("lineside")

_LOOK_SECONDS = 5.0  # from one look for the file that asks trainings to the next
_STOP_SECONDS = 2.5  # of the five that a stack gives each process


class ArchiverService(SubscriberService):
    """Archives the checkpoints of all runs, and asks trainings to hold theirs by ``limits``."""

    def __init__(
        self,
        settings: Settings,
        work: ArchiveWork,
        limits: HoldLimits,
    ) -> None:
        self._limits = limits
        self._url = work.archive.url
        self._look_at = 0.0
        self._copies = slots = Slots()
        self._status = status = ArchiveStatus()
        super().__init__(settings, Archiver, lambda: Archiver(work, slots, status))

    @property
    def problem(self) -> str:
        return self._status.problem

    def startup(self) -> None:
        lower_priority()
        super().startup()
        self._ask_trainings()

    def tick(self, now: float) -> None:
        super().tick(now)
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            if not (self.settings.home / HOLD_FILE).exists():  # `lineside up` started without it
                with contextlib.suppress(OSError):
                    self._ask_trainings()

    def _ask_trainings(self) -> None:
        write_limits(self.settings.home, self._limits, self._url)

    def flush(self) -> None:
        if not self._copies.stop(_STOP_SECONDS):
            log.warning("archiver: the archive does not answer, so the process ends in a request")
        super().flush()
