"""A run without a fault, for alerts that must not fire."""

from __future__ import annotations

import itertools

from lineside.bus.client.producer import ProducerConnection
from tests.deploy.scripted_runs import TICK_SECONDS, ScriptedRun


class HealthyRun(ScriptedRun):
    """A run that trains, with an evaluation, a save and a pause that take ``long_ticks`` each."""

    def __init__(self, connection: ProducerConnection, name: str, long_ticks: int) -> None:
        super().__init__(connection, name)
        self._plan = iter(
            [("training", 25)]
            + [
                found
                for phase in ("evaluating", "saving", "paused")
                for found in ((phase, long_ticks), ("training", 25))
            ]
        )
        self._until = 0
        self._age = itertools.count()
        self.is_done = False
        self.machine = {
            "gpu0/memory_used_bytes": 4e10,
            "gpu0/memory_total_bytes": 8e10,
            "gpu0/xid_errors_total": 0,
            "gpu0/ecc_uncorrected_errors_total": 2,
            "gpu0/slowdown": 0,
            "filesystem/output/available_bytes": 3e11,
            "filesystem/output/size_bytes": 1e12,
        }

    def tick(self) -> None:
        if next(self._age) >= self._until:
            self._next_phase()
        self.machine["gpu0/utilization_ratio"] = {"saving": 0.0, "paused": 0.0}.get(self.phase, 0.9)
        # A save and a pause are one long hook.
        self.hook_age += TICK_SECONDS if self.phase in ("saving", "paused") else 0.0
        super().tick()

    def _next_phase(self) -> None:
        ended, (self.phase, ticks) = self.phase, next(self._plan, ("over", 1 << 30))
        self._until += ticks
        self.hook_age = 0.01
        if ended == "evaluating":
            self.emit("rank0", "evaluate", metrics={"eval_loss": 2.0, "eval_runtime": 10.0})
        elif ended == "saving":
            self.save()
        elif ended == "paused":
            self.emit("control", "control_applied", id="2", op="resume")
        if self.phase == "paused":
            self.emit("control", "control_applied", id="1", op="pause")
        elif self.phase == "over":
            self.end()
            self.emit("rank0", "train_end", state={})
            self.emit("rank0", "run_end", how="exit")
            self.is_done = True
