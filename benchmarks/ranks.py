"""What agreeing costs several ranks: the share of a training they spend on it while nobody asks.

A loop of DDP steps over gloo under torchrun, each rank with its side of the steering. All time in
it counts, also that in which a rank waits for one that is late anyway. Beside it, per talk, a
broadcast over gloo, which was the other way to do it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from benchmarks.table import Row, markdown

SECONDS = 10.0
STEP_SECONDS = 0.02


def measure() -> list[Row]:
    """The worst rank's share in percent, with 2 and 4 ranks, and milliseconds a talk."""
    rows = []
    for ranks in (2, 4):
        told = _job(ranks)
        share = max(100 * one["steering"] / one["training"] for one in told)
        talk = 1_000 * max(one["talk"] for one in told)
        gloo = 1_000 * max(one["broadcast"] for one in told)
        steps = f"steps of {1_000 * told[0]['step']:.0f} ms"
        note = f"{steps}; {talk:.2f} ms a talk, {gloo:.2f} ms a gloo broadcast"
        rows.append(Row(f"share of control in training, {ranks} ranks", share, "%", 0.5, note=note))
    return rows


def _job(ranks: int) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        environment = {**os.environ, "LINESIDE_HOME": folder, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [*torchrun, f"--nproc-per-node={ranks}", "-m", "benchmarks.ranks", folder],
            env=environment,
            check=True,
            capture_output=True,
        )
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]


def _rank(folder: str) -> None:
    import torch
    import torch.distributed as dist

    from lineside.bus.settings import Settings
    from lineside.emitter.effects import Moment
    from lineside.emitter.following import Following
    from lineside.emitter.identity import Identity, Place
    from lineside.emitter.publisher import Publisher
    from lineside.emitter.steering import Steering

    dist.init_process_group("gloo")
    place = Place.from_env()
    publisher = Publisher(
        Settings.from_env(), Identity("bench", "attempt", "bench", "bench", place)
    )
    kind = Steering if place.rank == 0 else Following
    steering = kind(publisher, None, 0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
    state = SimpleNamespace(global_step=0, epoch=0.0)
    control = SimpleNamespace(should_log=False, should_evaluate=False, should_save=False)
    talks: list[float] = []
    steering_seconds = 0.0
    began = time.perf_counter()
    while not _is_over(began):
        model(torch.ones(8, 64)).sum().backward()
        time.sleep(STEP_SECONDS)
        state.global_step += 1
        asked = time.perf_counter()
        if steering.is_due(state.global_step):
            steering.steer(Moment("step_end", None, state, control, {}))
            talks.append(time.perf_counter() - asked)
        steering_seconds += time.perf_counter() - asked
    training = time.perf_counter() - began
    steering.close()
    publisher.close("exit")
    tensor, broadcasts = torch.zeros(2), []
    for _ in range(len(talks)):
        time.sleep(STEP_SECONDS)
        asked = time.perf_counter()
        dist.broadcast(tensor, 0)
        broadcasts.append(time.perf_counter() - asked)
    told = {
        "training": training,
        "steering": steering_seconds,
        "step": training / state.global_step,
        "talk": statistics.median(talks),
        "broadcast": statistics.median(broadcasts),
    }
    (Path(folder) / f"{place.rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _is_over(began: float) -> bool:
    """Whether rank 0's time is up: all ranks leave at the same step."""
    import torch
    import torch.distributed as dist

    over = torch.tensor([time.perf_counter() - began > SECONDS], dtype=torch.int32)
    dist.broadcast(over, 0)
    return bool(over.item())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _rank(sys.argv[1])
    else:
        print(markdown(measure()))
