"""The watchdog process: judges runs and Lineside itself, and keeps the alerts about them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sqlalchemy import Engine as StoreEngine

from lineside.bus.errors import StoreError
from lineside.bus.protocol.alerts import WATCHDOG
from lineside.bus.service import Service
from lineside.bus.settings import Settings
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.publication_sender import PublicationSender
from lineside.subscribers.state.progress_file import ProgressFile
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.watchdog.engine import Engine, Judgement, NoOutbox, Outbox, Timing
from lineside.subscribers.watchdog.judge import Judge
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.registry import RuleOptions, enabled_rules
from lineside.subscribers.watchdog.rules.rule import Rule
from lineside.subscribers.watchdog.run_observer import Responses, RunChanges, RunObserver
from lineside.subscribers.watchdog.stack_observer import SpoolReader, StackObserver
from lineside.subscribers.watchdog.state import WatchdogState
from lineside.subscribers.watchdog.stopper_alert import stopper_alert

log = logging.getLogger("lineside")

CLOSE_SECONDS = 3.0
"""How long the end waits for events and notifications that are still to be sent."""
SLEEP_SECONDS = 30.0
"""A pause between two judgements that is so much longer than usual: the machine slept."""
AWAKE_SECONDS = 120.0
"""For so long after it no run is reported as silent: its next hook or heartbeat is yet to come."""
_CLOCK_SECONDS = 1.0  # a clock that is set back by less does no harm
_PROGRESS_SECONDS = 30.0
_POLL_SECONDS = 0.5


class Notifications(Protocol):
    """What sends the notifications that ``outbox`` keeps."""

    @property
    def outbox(self) -> Outbox:
        """Where the engine puts them."""

    def start(self) -> None:
        """Begin; what an earlier process left is sent at once."""

    def wake(self) -> None:
        """There is something to send."""

    def beat(self) -> None:
        """The watchdog has judged, and store and broker answered."""

    def problems(self) -> Mapping[str, str]:
        """A sentence for each target, by its name, that took nothing at the last attempt."""

    def close(self, timeout: float) -> None:
        """Send what is left, for at most ``timeout`` seconds; the next start sends the rest."""


class NoNotifications:
    """Sends nothing."""

    outbox: Outbox = NoOutbox()

    def start(self) -> None:
        """Do nothing."""

    def wake(self) -> None:
        """Do nothing."""

    def beat(self) -> None:
        """Do nothing."""

    def problems(self) -> Mapping[str, str]:
        """None: there is no target."""
        return {}

    def close(self, timeout: float) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class WatchdogOptions:
    """Which rules apply, every ``interval`` seconds, and when alerts are repeated."""

    interval: float = 5.0
    timing: Timing = field(default_factory=Timing)
    rules: tuple[Rule, ...] = field(default_factory=lambda: enabled_rules(RuleOptions()))


class Watchdog(Service):
    """Judges every ``interval`` seconds, from the store and by looking at Lineside itself.

    ``spool`` reads this machine's spool. ``notifications`` makes what sends them, of the state.

    Raises:
        AddressInUse: another watchdog runs on this home.
    """

    name = WATCHDOG

    def __init__(
        self,
        settings: Settings,
        options: WatchdogOptions | None = None,
        *,
        spool: SpoolReader | None = None,
        notifications: Callable[[WatchdogState], Notifications] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._options = options or WatchdogOptions()
        self._clock = clock
        self._state = WatchdogState.of_home(settings.home)
        self._notifications: Notifications = (
            NoNotifications() if notifications is None else notifications(self._state)
        )
        self._sender = PublicationSender(settings.broker, self._state, self._on_fatal)
        self._engine = Engine(self._state, self._notifications.outbox, self._options.timing)
        self._judge = Judge(self._options.rules)
        self._store: StoreEngine | None = None
        self._runs: RunObserver | None = None
        self._stack = StackObserver(settings, spool, clock)
        self._fatal: BaseException | None = None
        self._runs_read: Sequence[RunObservation] = ()
        self._due = self._progress_due = self._awake_at = 0.0
        self._judged_at: float | None = None
        self.responses = Responses()
        """What people did about alerts, as far as the store has it."""
        self._last_problem = self._logged_problem = ""
        self._progress = ProgressFile(settings.home, self.name)

    @property
    def engine(self) -> Engine:
        """The alerts."""
        return self._engine

    def startup(self) -> None:
        """Start to send what an earlier process left."""
        self._progress.begin()
        self._sender.start()
        self._notifications.start()

    def run_once(self) -> None:
        """Watch the broker for half a second, and judge if it is time."""
        if self._fatal is not None:
            raise self._fatal
        self._stack.poll(_POLL_SECONDS)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._options.interval
            self.judge()
        self._progress.update(problem=self._last_problem)

    def judge(self) -> None:
        """Look at everything once, and bring the alerts up to date."""
        now = self._clock()
        was_asleep = self._was_asleep(now)
        problem = ""
        changes = RunChanges()
        try:
            runs, writer = self._open_store()
            stack = self._stack.observe(writer)
            self.responses = runs.responses()
            changes = runs.read(now, now - stack.recorder_lag, self._engine.watched_runs)
            self._runs_read = changes.judged
        except StoreError as error:
            problem = str(error)
            stack = self._stack.observe(None)
        stack = replace(
            stack,
            was_asleep=was_asleep,
            store_problem=problem,
            runs=self._runs_read,
            failing_targets=self._notifications.problems(),
        )
        judgement = self._judge.judge(stack, changes, self.responses)
        try:
            has_news = self._keep(judgement, changes, now)
        except StateFileError as error:
            # Once more in memory: an end that was judged now is not read again.
            problem = str(error)
            has_news = self._state.leave_file() and self._keep(judgement, changes, now)
        if not problem:
            self._keep_progress(changes)
        self._report(problem)
        if has_news:
            self._sender.wake()
            self._notifications.wake()
        if not problem and not stack.broker_silence:
            self._notifications.beat()
        self._judged_at = self._clock()

    def shutdown(self) -> None:
        """Send what is left, and close the files."""
        self._stack.close()
        self._sender.close(CLOSE_SECONDS)
        self._notifications.close(CLOSE_SECONDS)
        self._close_store()
        self._state.close()

    def _was_asleep(self, now: float) -> bool:
        """Whether this process or the machine slept, or the clock was set, a moment ago."""
        usual = self._options.interval + SLEEP_SECONDS
        if self._judged_at is not None and not -_CLOCK_SECONDS < now - self._judged_at < usual:
            log.info("watchdog: nothing was judged for a time; silence counts from now on")
            self._awake_at = time.monotonic() + AWAKE_SECONDS
            self._engine.begin_again_at(now)
            self._stack.begin_again()
        return time.monotonic() < self._awake_at

    def _keep(self, judgement: Judgement, changes: RunChanges, now: float) -> bool:
        has_news = self._engine.apply(judgement, now)
        return self._pass_on(changes, now) or has_news

    def _keep_progress(self, changes: RunChanges) -> None:
        monotonic, pending = time.monotonic(), self._engine.pending_runs
        # An end is read once: with its revision it would be lost before its alert has opened.
        has_pending_end = any(one.run.id in pending for one in changes.judged if not one.is_active)
        if monotonic < self._progress_due or has_pending_end:
            return
        self._progress_due = monotonic + _PROGRESS_SECONDS
        if not self._state.is_in_memory or self._state.return_to_file():
            self._state.judged(changes.revision)

    def _pass_on(self, changes: RunChanges, now: float) -> bool:
        """Notify of the stopper's alerts, which it publishes itself."""
        has_news = False
        for run, row in changes.alerts:
            alert = stopper_alert(run, row)
            if alert is not None and alert.opened_at >= self._state.began_at:
                is_muted = self.responses.is_muted(alert)
                has_news |= self._engine.pass_on(alert, now, is_muted=is_muted)
        return has_news

    def _open_store(self) -> tuple[RunObserver, Writer]:
        if self._store is None or self._runs is None:
            self._store = open_store(self._settings.store)
            self._runs = RunObserver(self._store, self._state.revision, self._state.began_at)
        return self._runs, Writer(self._store)

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.dispose()
            self._store = self._runs = None

    def _report(self, problem: str) -> None:
        """Log a problem at its second time in a row: at a start the store is only being made."""
        if problem == self._last_problem != self._logged_problem:
            if problem:
                log.warning("watchdog: %s", problem)
            else:
                log.info("watchdog: judging again")
            self._logged_problem = problem
        self._last_problem = problem

    def _on_fatal(self, error: BaseException) -> None:
        self._fatal = error
