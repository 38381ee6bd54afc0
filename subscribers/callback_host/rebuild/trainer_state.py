"""The ``TrainerState`` of a training, made again from its events."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import Event


class StateImage:
    """One ``TrainerState`` that is at each event what the Trainer's was.

    At the hooks of single steps ``num_input_tokens_seen`` is that of the newest log.
    ``stateful_callbacks`` is empty: a hosted callback's own state is kept by its process.
    The Trainer makes a new one when training begins, and so does this.
    """

    def __init__(self) -> None:
        self.state: Any = TrainerState()
        self._facts: Mapping[str, Any] = {}
        self._has_begun = False

    def observe(self, event: Event) -> None:
        """Change the state to what it was when the hook of ``event`` was called."""
        data = event.data or {}
        if event.kind == "run_start":
            self._facts = data
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
        self._set(_mapping(self._facts.get("state")))
        history = data.get("log_history")
        if isinstance(history, list):
            self.state.log_history = [dict(one) for one in history if isinstance(one, Mapping)]

    def _set(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name == "best_model_checkpoint" and isinstance(value, str):
                value = self._as_named(value)
            setattr(self.state, name, value)

    def _as_named(self, checkpoint: str) -> str:
        """The path of a checkpoint as the Trainer has it: below ``output_dir`` as it was given."""
        args, process = _mapping(self._facts.get("args")), _mapping(self._facts.get("process"))
        output, place = args.get("output_dir"), process.get("cwd")
        if not (isinstance(output, str) and isinstance(place, str)):
            return checkpoint
        inside = os.path.relpath(checkpoint, Path(place, output))
        if inside.startswith(".."):
            return checkpoint
        return os.path.join(output, inside)  # noqa: PTH118 - a Path would drop "./"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
