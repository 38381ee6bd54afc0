"""Rules about GPUs, from the samples of the training's host."""

from __future__ import annotations

from pydantic import Field

from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, RunRule, hold
from lineside.subscribers.watchdog.rules.wording import percent
from lineside.subscribers.watchdog.series import Window

SAMPLE_SECONDS = 60.0
"""A GPU is as busy as it was at most in this time."""
USED_BYTES = 1 << 30
"""A GPU with so much memory in use is one that a process computes on."""
_UTILIZATION, _MEMORY = "utilization_ratio", "memory_used_bytes"


class GpuIdle(RunRule):
    name = "gpu_idle"
    doc = (
        "a training takes steps and fewer GPUs of its machine are busy than it has processes, "
        "though memory of the others is in use. Needs the sampler"
    )
    for_: float = hold(600)
    utilization: float = Field(
        default=0.05, ge=0, lt=1, description="A GPU below this utilization is idle."
    )

    def judge(self, run: RunObservation) -> Findings:
        if not run.is_active:
            return []
        if not run.is_stepping:
            return None
        return [
            finding
            for host, metrics in run.gpus.items()
            if (finding := self._finding(run, host, metrics)) is not None
        ]

    def _finding(
        self, run: RunObservation, host: str, metrics: dict[str, Window]
    ) -> Finding | None:
        busy, idle = [], []
        for name, window in metrics.items():
            gpu, _, what = name.partition("/")
            samples = window.since(run.now - SAMPLE_SECONDS) if what == _UTILIZATION else []
            if not samples:
                continue
            if max(samples) >= self.utilization:
                busy.append(gpu)
                continue
            memory = metrics.get(f"{gpu}/{_MEMORY}")
            if memory is not None and (memory.last or 0.0) >= USED_BYTES:
                idle.append(gpu)
        expected = min(_local_processes(run), len(busy) + len(idle))
        if len(busy) >= expected:
            return None
        return Finding(
            f"{', '.join(sorted(idle))} of {host}: below {percent(self.utilization)} in the last "
            "minute, while the training takes steps",
            f"lineside show {run.run.id}",
            host,
            details={"idle": sorted(idle), "busy": sorted(busy)},
        )


def _local_processes(run: RunObservation) -> int:
    """The processes of the training on one machine, if it has as many on each."""
    world = run.facts.get("world_size")
    processes = world if isinstance(world, int) and world > 0 else 1
    return max(1, processes // max(1, len(run.gpus)))
