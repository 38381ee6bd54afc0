"""The ``TrainerState`` of a training, made again from its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerState

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import Event


class StateImage:
    """One ``TrainerState`` that is at each event what the Trainer's was.

    The Trainer makes a new one when training begins, and so does this.
    """

    def __init__(self) -> None:
        self.state: Any = TrainerState()
        self._start: Mapping[str, Any] = {}
        self._has_begun = False

    def observe(self, event: Event) -> None:
        """Change the state to what it was when the hook of ``event`` was called."""
        data = event.data or {}
        if event.kind == "run_start":
            self._start = _mapping(data.get("state"))
            return
        if event.kind not in LIFECYCLE_KINDS:
            return
        if event.kind != "init_end" and not self._has_begun:
            self._begin(data)
        state = self.state
        state.global_step, state.epoch = event.step, event.epoch
        self._set(_mapping(data.get("state")))
        if event.kind == "log":
            # As Trainer.log does before it calls on_log.
            state.log_history.append({**_mapping(data.get("logs")), "step": event.step})

    def _begin(self, data: Mapping[str, Any]) -> None:
        # What run_start has is what was true when training began: not yet at init_end.
        self._has_begun = True
        self.state = TrainerState()
        self._set(self._start)
        history = data.get("log_history")
        if isinstance(history, list):
            self.state.log_history = [dict(one) for one in history if isinstance(one, Mapping)]

    def _set(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(self.state, name, value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
