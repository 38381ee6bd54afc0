"""The process that stops runs, and does other things about them, by rules."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import ClassVar

from lineside.bus.client.reader import Batch, Reader
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import EXPIRES_SECONDS
from lineside.bus.protocol.event_kinds import END_KINDS
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.protocol.messages import OFFSET
from lineside.bus.settings import Settings
from lineside.subscribers.stopper import outbox
from lineside.subscribers.stopper.attempt_state import Trigger
from lineside.subscribers.stopper.outbox import Outbox
from lineside.subscribers.stopper.rule_engine import RANK_0, RuleEngine
from lineside.subscribers.stopper.rules import Rule
from lineside.subscribers.stopper.state_store import StateStore, StateStoreError
from lineside.subscribers.subscriber import IDLE_SECONDS, Subscriber

log = logging.getLogger("lineside")

COMMIT_SECONDS = 1.0
"""How often it is written down how far the journal was read; what a crash takes is read again."""
_PRUNE_SECONDS = 3600.0
_CATCH_UP_SECONDS = 0.1  # that a turn waits for more until the journal was read to its end


class Stopper(Subscriber):
    """Applies ``rules`` to every run; with ``dry_run`` it only says what it would do.

    It reads from where its own memory is, not from the broker's cursor: both are one transaction.
    What is read again leads to the same commands, by their ids, and what was said already, as the
    journal shows, is not said again: so nothing is said before the journal was read to its end.
    """

    name = "stopper"
    streams: ClassVar[tuple[str, ...]] = (
        f"*/{RANK_0}",
        f"*/{commands.CONTROL_PRODUCER}",
        f"*/{outbox.PRODUCER}",
    )

    def __init__(self, settings: Settings, rules: Sequence[Rule], *, dry_run: bool = False) -> None:
        super().__init__(settings)
        self._rules = rules
        self._dry_run = dry_run
        self._state_store: StateStore | None = None
        self._outbox = Outbox(settings.broker)
        self._head_at_start: int | None = None  # of the journal, when it was first heard of
        self._is_caught_up = False
        self._offset = 0  # up to this offset
        self._restarts = 0  # of the reader, as far as taken into account
        self._commit_at = 0.0
        self._prune_at = 0.0

    def startup(self) -> None:
        self._state_store = StateStore.for_rules(
            self.settings.home, self._rules, dry_run=self._dry_run
        )
        self._rule_engine = RuleEngine(self._rules, self._state_store)
        super().startup()

    def open_reader(self) -> Reader:
        journal, self._offset = self._state_store.position() if self._state_store else (None, 0)
        return Reader(
            self.settings.broker,
            start=OFFSET,
            offset=self._offset,
            streams=self.streams,
            journal=journal,
        )

    def run_once(self) -> None:
        was_connected = self.reader.is_subscribed
        batch = self.reader.poll(IDLE_SECONDS if self._is_caught_up else _CATCH_UP_SECONDS)
        if self.reader.restarts != self._restarts:  # another journal, or an older copy of this one
            self._restarts, self._offset = self.reader.restarts, 0
            self._head_at_start, self._is_caught_up = None, False
        if batch is not None:
            self.handle(batch)
            self._offset = batch.offset
            self.reader.commit(batch.offset)
        if was_connected and self._check_caught_up():
            self._outbox.send()
        if self._state_store is not None and time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_SECONDS
            self._state_store.prune()
        if time.monotonic() >= self._commit_at:
            self._commit_at = time.monotonic() + COMMIT_SECONDS
            self._commit()

    def handle(self, batch: Batch) -> None:
        for gap in batch.gaps:
            self.handle_gap(gap)
        for event in batch.events:
            if batch.stream is None:
                continue
            try:
                self._handle_event(batch.stream, event)
            except StateStoreError:
                raise
            except Exception:
                log.exception("stopper: %s of %s, seq %d", event.kind, batch.stream, event.seq)

    def shutdown(self) -> None:
        super().shutdown()
        self._outbox.close()
        if self._state_store is not None:
            if hasattr(self, "reader"):
                self._commit()
            self._state_store.close()

    def _handle_event(self, stream: Stream, event: Event) -> None:
        self._outbox.discard_published(event)
        triggers = self._rule_engine.handle(stream, event)
        if event.kind in END_KINDS and stream.producer == RANK_0:
            self._outbox.discard_attempt(stream)
        if not self._is_caught_up and event.time < time.time() - EXPIRES_SECONDS:
            return  # it would be of no use any more
        for trigger in triggers:
            self._log_trigger(trigger)
            self._outbox.put(outbox.message(trigger, dry_run=self._dry_run))
        # A dry run must not be taken for the stopper that a training waits for.
        if event.kind == "evaluate" and stream.producer == RANK_0 and not self._dry_run:
            attempt_state = self._rule_engine.attempt_state(stream)
            if attempt_state.wait_seconds > 0 and attempt_state.is_training:
                self._outbox.put(outbox.evaluation_reviewed(stream, event))

    def _log_trigger(self, trigger: Trigger) -> None:
        log.info(
            "stopper: %s of run %s at step %d by rule %s: %s%s",
            trigger.action,
            trigger.stream.run,
            trigger.step,
            trigger.rule.name,
            trigger.reason,
            " (dry run)" if self._dry_run else "",
        )

    def _check_caught_up(self) -> bool:
        """Whether all was read that the journal had when we began."""
        if not self._is_caught_up and self.reader.is_subscribed:
            self._head_at_start = (
                self.reader.head if self._head_at_start is None else self._head_at_start
            )
            self._is_caught_up = self.reader.processed >= self._head_at_start
        return self._is_caught_up

    def _commit(self) -> None:
        # What is still to be said is known by reading it again, and by nothing else.
        if self._outbox.is_empty:
            self._rule_engine.commit(self.reader.journal, self._offset)
