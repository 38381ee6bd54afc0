"""The process that stops runs by rules, and sends them other commands and alerts."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import ClassVar

from lineside.bus.client.reader import Batch
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import EXPIRES_SECONDS
from lineside.bus.protocol.event_kinds import END_KINDS
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.bus.settings import Settings
from lineside.subscribers.batch_subscriber import BatchSubscriber
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.stopper import outbox
from lineside.subscribers.stopper.attempt_state import Trigger
from lineside.subscribers.stopper.outbox import Outbox
from lineside.subscribers.stopper.rule_engine import RuleEngine
from lineside.subscribers.stopper.rules import Rule
from lineside.subscribers.stopper.state_store import StateStore

log = logging.getLogger("lineside")

COMMIT_SECONDS = 1.0
"""How often state and offset are written down; what a crash loses is read again."""
_PRUNE_SECONDS = 3600.0


class Stopper(BatchSubscriber):
    """Applies ``rules`` to every run; with ``dry_run`` it only publishes alerts.

    It keeps its offset in one transaction with the rules' state. Events that are read again lead to
    the same commands, by their ids, and the journal shows which of them were published already: so
    nothing is published before the journal was read to its end.
    """

    name = "stopper"
    is_durable = False
    streams: ClassVar[Sequence[str]] = (
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
        self._commit_at = 0.0
        self._prune_at = 0.0

    def startup(self) -> None:
        self._state_store = StateStore.for_rules(
            self.settings.home, self._rules, dry_run=self._dry_run
        )
        self._rule_engine = RuleEngine(self._rules, self._state_store)
        super().startup()

    def position(self) -> tuple[str | None, int]:
        return self._state_store.position() if self._state_store else (None, 0)

    def handle(self, batches: Sequence[Batch]) -> bool:
        for batch in batches:
            for gap in batch.gaps:
                self.handle_gap(gap)
            for event in batch.events:
                if batch.stream is not None:
                    self._handle_or_log(batch.stream, event)
        return True

    def tick(self, now: float) -> None:
        if self.is_caught_up and self.reader.is_subscribed:
            self._outbox.send()
        if self._state_store is not None and now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            self._state_store.prune()
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_SECONDS
            self.flush()

    def flush(self) -> None:
        # Messages that were not sent are known only by reading their events again.
        if self._outbox.is_empty:
            self._rule_engine.commit(self.reader.journal, self.offset)

    def shutdown(self) -> None:
        super().shutdown()
        self._outbox.close()
        if self._state_store is not None:
            self._state_store.close()

    def _handle_or_log(self, stream: Stream, event: Event) -> None:
        try:
            self._handle_event(stream, event)
        except StateFileError:
            raise
        except Exception:
            log.exception("stopper: %s of %s, seq %d", event.kind, stream, event.seq)

    def _handle_event(self, stream: Stream, event: Event) -> None:
        self._outbox.discard_published(event)
        triggers = self._rule_engine.handle(stream, event)
        if event.kind in END_KINDS and stream.producer == RANK_0:
            self._outbox.discard_attempt(stream)
        if not self.is_caught_up and event.time < time.time() - EXPIRES_SECONDS:
            return  # a command would have expired
        for trigger in triggers:
            self._log_trigger(trigger)
            self._outbox.put(outbox.message(trigger, dry_run=self._dry_run))
        # A training waits for the stopper, not for a dry run.
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
