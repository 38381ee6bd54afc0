"""What a ``CheckpointCallback`` keeps beside a checkpoint, and how its checkpoints rank."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

STATE_FILE = "loop_state.json"


@dataclass(frozen=True)
class LoopState:
    """What ``loop_state.json`` holds: ``run`` wrote the checkpoint, empty without Lineside.

    ``saved_at`` is in seconds since the epoch.
    """

    step: int
    epoch: float | None
    metrics: dict[str, float]
    saved_at: float
    run: str = ""

    def write(self, checkpoint: Path) -> None:
        (checkpoint / STATE_FILE).write_text(json.dumps(asdict(self), indent=1))


@dataclass
class SavedCheckpoints:
    """The checkpoints that a run has in its folder, in the order saved.

    ``monitor`` is the metric that ranks them; higher is better after multiplication by ``sign``.
    """

    monitor: str | None
    sign: float
    states: dict[int, LoopState] = field(default_factory=dict)

    @property
    def best(self) -> LoopState | None:
        """The best of them, the earliest of equal ones; None if none has the metric."""
        ranked = [state for state in self.states.values() if not math.isnan(self._value(state))]
        return max(ranked, key=self._value, default=None)

    def add(self, state: LoopState) -> None:
        self.states.pop(state.step, None)  # replaced
        self.states[state.step] = state

    def is_improved_by(self, state: LoopState) -> bool:
        """Whether ``state`` would be the best one."""
        best, value = self.best, self._value(state)
        return not math.isnan(value) and (best is None or value > self._value(best))

    def surplus(self, limit: int, *, newest: int) -> list[int]:
        """The steps of those over ``limit``, oldest first.

        Never the best one, and never one of the ``newest``.
        """
        best = self.best
        if newest and best is not None and best.step == [*self.states][-1]:
            newest -= 1
        others = [step for step in self.states if best is None or step != best.step]
        kept = limit if best is None else max(limit - 1, newest)
        return others[: max(len(others) - kept, 0)]

    def _value(self, state: LoopState) -> float:
        return self.sign * state.metrics.get(self.monitor or "", math.nan)


def read_state(path: Path) -> LoopState | None:
    """The state of a checkpoint that a ``CheckpointCallback`` wrote; None for anything else."""
    try:
        return LoopState(**json.loads((path / STATE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
