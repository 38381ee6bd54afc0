"""Delivers the outbox: one thread a target, so that a dead target delays no other.

A message is removed after its target took it: it arrives at least once, and once unless the process
is killed in between, or the target's confirmation is lost. A repeat has the same id.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from lineside.bus.errors import LinesideError
from lineside.bus.wording import plural
from lineside.subscribers.watchdog.notification.message import duration
from lineside.subscribers.watchdog.notification.outbox import Outbox, Waiting
from lineside.subscribers.watchdog.notification.target import DeliveryFailed, Target

log = logging.getLogger("lineside")

FIRST_DELAY, MAX_DELAY = 5.0, 3600.0
"""Seconds to the second attempt, and at most from one attempt to the next."""
MAX_RETRY_AFTER = 86_400.0
"""A target that asks for a longer pause is tried again after this one."""
_STATE_DELAY = 5.0  # until the state file is tried again

_T = TypeVar("_T")


class Notifier:
    """Sends what ``outbox`` holds for its targets, from ``start`` until ``close``.

    The first delay after a failure is ``first_delay``; each further one in a row is twice as long.
    """

    def __init__(self, outbox: Outbox, first_delay: float = FIRST_DELAY) -> None:
        self._threads = [_DeliveryThread(outbox, target, first_delay) for target in outbox.targets]

    def start(self) -> None:
        """Begin with what waits since the last process."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something was queued: call it after the transaction."""
        for thread in self._threads:
            thread.wake()

    def problems(self) -> dict[str, str]:
        """A sentence for each target, by its name, that took no message at the last attempt."""
        return {one.target.name: one.problem for one in self._threads if one.problem}

    def close(self, timeout: float) -> None:
        """Stop; a message on its way gets ``timeout`` seconds, and is sent again otherwise."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))


class _DeliveryThread(threading.Thread):
    def __init__(self, outbox: Outbox, target: Target, first_delay: float) -> None:
        super().__init__(name=f"deliver to {target.name}", daemon=True)
        self.problem = ""
        self._outbox = outbox
        self.target = target
        self._first_delay = first_delay
        self._failures = 0
        self._condition = threading.Condition()
        self._is_woken = False
        self._is_stopping = False

    def wake(self) -> None:
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def stop(self) -> None:
        with self._condition:
            self._is_stopping = True
            self._condition.notify()

    def run(self) -> None:
        while not self._is_stopping:
            with self._condition:
                self._is_woken = False
            try:
                delay = self._deliver_next()
            except Exception:  # the queue of this target must not end
                log.exception("watchdog: a notification to %s failed", self.target.name)
                delay = _STATE_DELAY
            with self._condition:
                if delay is None:
                    self._condition.wait_for(lambda: self._is_stopping or self._is_woken)
                elif delay > 0:  # a new message does not shorten it
                    self._condition.wait_for(lambda: self._is_stopping, delay)

    def _deliver_next(self) -> float | None:
        """Deliver what is due; the seconds until the next time, None if nothing waits."""
        waiting = self._until_written(lambda: self._outbox.next(self.target))
        if not waiting:
            return None
        try:
            self.target.sender.send([one.message for one in waiting])
        except DeliveryFailed as error:
            return self._handle_failure(waiting, error)
        except Exception as error:  # noqa: BLE001 - of a service's own code; its text may be secret
            return self._handle_failure(waiting, DeliveryFailed(f"a {type(error).__name__}"))
        self._until_written(lambda: self._outbox.delivered(self.target, waiting))
        if self._failures:
            log.info("watchdog: %s takes notifications again", self.target.name)
        self._failures, self.problem = 0, ""
        return 0.0

    def _handle_failure(self, waiting: Sequence[Waiting], error: DeliveryFailed) -> float | None:
        name, alert = self.target.name, waiting[0].message.alert
        if error.is_final:
            count = self._until_written(lambda: self._outbox.remove(self.target)) or 0
            self._is_stopping = True
            self.problem = f"{name} wants no more notifications: {error}"
            log.error(
                "watchdog: %s; %s dropped, and none is sent until the next start: remove the "
                "target from the configuration",
                self.problem,
                plural(count, "notification"),
            )
            return None
        with contextlib.suppress(LinesideError):  # only the order of the next attempts
            self._outbox.failed(self.target, waiting)
        self._failures += 1
        delay = min(self._first_delay * 2.0 ** min(self._failures - 1, 30), MAX_DELAY)
        delay *= random.uniform(0.8, 1.2)  # noqa: S311 - nothing secret
        delay = max(delay, min(error.retry_after or 0.0, MAX_RETRY_AFTER))
        self.problem = f"{name} did not take a notification: {error}"
        log.warning(
            "watchdog: %s (%s%s%s); next attempt in %s",
            self.problem,
            alert.rule,
            f" of {alert.run}" if alert.run else "",
            f" and {len(waiting) - 1} more" if len(waiting) > 1 else "",
            duration(delay),
        )
        return delay

    def _until_written(self, change: Callable[[], _T]) -> _T | None:
        """``change`` the outbox, again and again while the file cannot be written.

        What a target has taken must not be sent again because the disk is full.
        """
        is_logged = False
        while not self._is_stopping:
            try:
                return change()
            except LinesideError as error:
                if not is_logged:
                    log.warning("watchdog: notifications to %s wait: %s", self.target.name, error)
                    is_logged = True
            with self._condition:
                self._condition.wait_for(lambda: self._is_stopping, _STATE_DELAY)
        return None
