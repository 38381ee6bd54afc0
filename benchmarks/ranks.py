"""The cost of agreement between ranks without commands, and the time of a command on all ranks.

A loop of DDP steps over gloo under torchrun; each rank has its command executor. All its time
counts, the wait for late ranks included. Beside it, for each sync round, a broadcast over gloo, the
alternative. Then another process sends commands at random times between two rounds, through a real
broker and a real shipper.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from benchmarks.control import time_one
from benchmarks.table import Row, markdown
from lineside.bus.client.command_client import CommandClient
from lineside.bus.testing import BrokerProcess

SECONDS = 10.0
STEP_SECONDS = 0.02
COMMANDS = 30
RUN = "bench"
MEASURED, STOPPED = "measured", "over"
"""Files: rank 0 writes one when it takes commands, the commanding process one when it is done."""


def measure() -> list[Row]:
    """The worst rank's share in percent, and seconds to application, with 2 and 4 ranks."""
    rows = []
    for ranks in (2, 4):
        measurements, took = _job(ranks)
        share = max(100 * one["steering"] / one["training"] for one in measurements)
        round_ms = 1_000 * max(one["talk"] for one in measurements)
        gloo = 1_000 * max(one["broadcast"] for one in measurements)
        steps = f"steps of {1_000 * measurements[0]['step']:.0f} ms"
        note = f"{steps}; {round_ms:.2f} ms a talk, {gloo:.2f} ms a gloo broadcast"
        rows.append(Row(f"share of control in training, {ranks} ranks", share, "%", 0.5, note=note))
        note = f"{steps}, {len(took)} commands, p50 {statistics.median(took):.2f} s"
        rows.append(
            Row(f"command to applied on {ranks} ranks, slowest", max(took), "s", 2, note=note)
        )
    return rows


def _job(ranks: int) -> tuple[list[dict[str, float]], list[float]]:
    """The measurements of each rank, and the seconds of each command."""
    with tempfile.TemporaryDirectory() as name, BrokerProcess(Path(name)) as broker:
        folder = Path(name)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        environment = {**os.environ, "LINESIDE_HOME": name, "OMP_NUM_THREADS": "1"}
        job = subprocess.Popen(
            [*torchrun, f"--nproc-per-node={ranks}", "-m", "benchmarks.ranks", name],
            env=environment,
        )
        try:
            while not (folder / MEASURED).exists():
                if job.poll() is not None:
                    raise SystemExit(f"torchrun ended with {job.returncode}")
                time.sleep(0.1)
            took = _send_commands(broker.address)
            (folder / STOPPED).touch()
            job.wait()
        finally:
            job.terminate()
            job.wait()
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)], took


def _send_commands(address: str) -> list[float]:
    took = []
    with CommandClient(address) as client:
        time_one(client, RUN)  # it waits for a shipper to be started
        for _ in range(COMMANDS):
            time.sleep(random.uniform(0, 1))
            took.append(time_one(client, RUN))
    return took


class _Rank:
    """One rank's training with its command executor."""

    def __init__(self) -> None:
        import torch

        from lineside.bus.settings import Settings
        from lineside.emitter.control.follower import FollowerExecutor
        from lineside.emitter.control.leader import LeaderExecutor
        from lineside.emitter.training.identity import Identity, RankInfo
        from lineside.emitter.training.publisher import Publisher

        rank_info = RankInfo.from_env()
        identity = Identity(RUN, "attempt", "bench", "bench", rank_info)
        self.publisher = Publisher(Settings.from_env(), identity)
        executor_class = LeaderExecutor if rank_info.rank == 0 else FollowerExecutor
        self.executor = executor_class(self.publisher, None, 0)
        self.rank = rank_info.rank
        self.model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
        self.batch = torch.ones(8, 64)
        self.args = SimpleNamespace(save_strategy="no")
        self.state = SimpleNamespace(global_step=0, epoch=0.0)
        self.control = SimpleNamespace(should_log=False, should_evaluate=False, should_save=False)
        self.round_seconds: list[float] = []
        self.steering_seconds = 0.0

    def train(self, is_over: Callable[[], bool]) -> float:
        """Wait until rank 0 has ended; the seconds it took."""
        from lineside.emitter.control.trainer_actions import HookContext

        began = time.perf_counter()
        while not _broadcast_from_rank_0(is_over()):
            self.model(self.batch).sum().backward()
            time.sleep(STEP_SECONDS)
            self.state.global_step += 1
            self.publisher.maintain_if_due()  # as a hook does
            asked = time.perf_counter()
            if self.executor.is_due(self.state):
                self.executor.apply_commands(
                    HookContext("step_end", self.args, self.state, self.control, {})
                )
                self.round_seconds.append(time.perf_counter() - asked)
            self.steering_seconds += time.perf_counter() - asked
        return time.perf_counter() - began

    def close(self) -> None:
        self.executor.close()
        self.publisher.close("exit")


def _measure_rank(folder: Path) -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = _Rank()
    until = time.perf_counter() + SECONDS
    training = rank.train(lambda: time.perf_counter() > until)
    tensor, broadcasts = torch.zeros(2), []
    for _ in range(len(rank.round_seconds)):
        time.sleep(STEP_SECONDS)
        asked = time.perf_counter()
        dist.broadcast(tensor, 0)
        broadcasts.append(time.perf_counter() - asked)
    measurements = {
        "training": training,
        "steering": rank.steering_seconds,
        "step": training / rank.state.global_step,
        "talk": statistics.median(rank.round_seconds),
        "broadcast": statistics.median(broadcasts),
    }
    (folder / f"{rank.rank}.json").write_text(json.dumps(measurements))
    if rank.rank == 0:
        (folder / MEASURED).touch()
    rank.train((folder / STOPPED).exists)
    rank.close()
    dist.destroy_process_group()


def _broadcast_from_rank_0(is_over: bool) -> bool:
    """Rank 0's decision: all ranks leave at the same step."""
    import torch
    import torch.distributed as dist

    over = torch.tensor([is_over], dtype=torch.int32)
    dist.broadcast(over, 0)
    return bool(over.item())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure_rank(Path(sys.argv[1]))
    else:
        print(markdown(measure()))
