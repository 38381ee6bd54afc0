"""Follows runs by their events, in the order of the journal, and finds the rules that act."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.event_kinds import RESUME_KINDS
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.subscribers.stopper.attempt_state import AttemptState, Trigger
from lineside.subscribers.stopper.rules import Rule
from lineside.subscribers.stopper.state_store import StateStore


class RuleEngine:
    """Applies ``rules`` to the events of runs. An event that is given again changes nothing.

    The same events give the same triggers, whatever process was restarted in between.
    """

    def __init__(self, rules: Sequence[Rule], state_store: StateStore) -> None:
        self._rules = rules
        self._state_store = state_store
        self._attempt_states: dict[tuple[str, str], AttemptState] = {}
        self._changed: set[tuple[str, str]] = set()
        self._rules_by_run: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def handle(self, stream: Stream, event: Event) -> list[Trigger]:
        """The triggers of the rules that act at this event."""
        if stream.producer == commands.CONTROL_PRODUCER:
            self._on_control_event(stream, event)
            return []
        if stream.producer != RANK_0:
            return []
        attempt_state = self.attempt_state(stream)
        if event.seq < attempt_state.next_seq:
            return []
        attempt_state.next_seq = event.seq + 1
        self._changed.add((stream.run, stream.attempt))
        if event.kind == "run_start":
            self._start_attempt(attempt_state, event.data or {})
        triggers = list(attempt_state.handle(event, self._rules_for(attempt_state)))
        if event.kind in RESUME_KINDS and attempt_state.is_training:
            self._state_store.save_snapshot(*stream[::2], event.step, attempt_state.snapshot())
        return triggers

    def attempt_state(self, stream: Stream) -> AttemptState:
        """The state of the attempt that a stream belongs to."""
        key = stream.run, stream.attempt
        known = self._attempt_states.get(key)
        if known is None:
            saved = self._state_store.attempt_state(*key)
            known = self._attempt_states[key] = (
                AttemptState.from_dict(saved) if saved else AttemptState(*key)
            )
        return known

    def commit(self, journal: str | None, offset: int) -> None:
        """Store every changed state together with this offset."""
        for key in self._changed:
            attempt_state = self._attempt_states[key]
            self._state_store.save_attempt_state(
                *key, attempt_state.to_dict(), attempt_state.time or time.time()
            )
        self._state_store.commit(journal, offset)
        for key in self._changed:
            if not self._attempt_states[key].is_training:
                del self._attempt_states[key]
        self._changed.clear()

    def _start_attempt(self, attempt_state: AttemptState, data: Mapping[str, Any]) -> None:
        """Begin an attempt with the state of the attempt that it resumes."""
        others = [
            AttemptState.from_dict(saved)
            for saved in self._state_store.attempt_states(attempt_state.run)
        ]
        others += [one for one in self._attempt_states.values() if one.run == attempt_state.run]
        attempt_state.earlier_seconds = max(
            (one.trained_seconds for one in others if one is not attempt_state), default=0.0
        )
        resumed = data.get("resumed_from")
        if not isinstance(resumed, Mapping) or not isinstance(resumed.get("step"), int):
            return
        run, attempt = resumed.get("run"), resumed.get("attempt")
        snapshot = self._state_store.snapshot(str(run), str(attempt), resumed["step"])
        if snapshot is not None:
            attempt_state.restore(snapshot)

    def _on_control_event(self, stream: Stream, event: Event) -> None:
        """Take the learning rate that a command has set."""
        data = event.data or {}
        if event.kind == commands.APPLIED and isinstance(data.get("to"), (int, float)):
            self.attempt_state(stream).learning_rate = data["to"]
            self._changed.add((stream.run, stream.attempt))

    def _rules_for(self, attempt_state: AttemptState) -> tuple[Rule, ...]:
        key = attempt_state.run, attempt_state.name, attempt_state.project
        if key not in self._rules_by_run:
            self._rules_by_run[key] = tuple(rule for rule in self._rules if rule.matches(*key))
        return self._rules_by_run[key]
