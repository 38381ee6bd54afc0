"""Step times of a training while the receiver of its upload answers, is away, or hangs.

The whole way runs: callback, spool, shipper, broker, uploader and receiver, each a process, on the
same cores as the training. Steps of about five milliseconds with a log each. The three cases take
turns, and each round has its own ratio, of which the median counts: what else the machine does
changes from round to round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from benchmarks.table import Row
from benchmarks.uploads.receiver import ANSWER, HANG
from lineside.bus.testing import BrokerProcess
from lineside.emitter import LinesideCallback
from tests.support.ports import free_port

ROUNDS, STEPS = 5, 200
STEP_SECONDS = 0.005
AWAY = "away"
LOGS = {"loss": 2.345678, "grad_norm": 1.23456, "learning_rate": 4.9e-05, "epoch": 0.1234567}
_PAUSE_SECONDS = 0.5
_LIMIT = 1.1


def measure() -> list[Row]:
    """Step times beside a receiver that is away or hangs, over those beside one that answers."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        home = Path(name)
        stack.enter_context(BrokerProcess(home))
        os.environ["LINESIDE_HOME"] = name
        port = str(free_port())
        config = home / "lineside.yaml"
        config.write_text(f"uploads: {{bench: {{url: 'http://127.0.0.1:{port}', interval: 0.2}}}}")
        callback = LinesideCallback(run_id="bench")
        args = TrainingArguments(output_dir=name, use_cpu=True, report_to="none")
        given = (args, TrainerState(max_steps=3 * ROUNDS * STEPS), TrainerControl())
        callback.on_train_begin(*given)
        work = _work()
        took: dict[str, list[list[float]]] = {ANSWER: [], AWAY: [], HANG: []}
        for number in range(ROUNDS):
            cases = list(took)
            for case in cases[number % 3 :] + cases[: number % 3]:
                with _receiver(case, port), _uploader(home, config):
                    took[case].append(_steps(callback, given, work))
        callback.on_train_end(*given)
    return [_row(case, took) for case in (AWAY, HANG)]


def _row(case: str, took: Mapping[str, list[list[float]]]) -> Row:
    medians = {name: [statistics.median(one) for one in rounds] for name, rounds in took.items()}
    pairs = zip(medians[case], medians[ANSWER], strict=True)
    ratios = sorted(beside / answered for beside, answered in pairs)
    is_what = {AWAY: "is away", HANG: "hangs"}[case]
    return Row(
        f"a step with a log while the receiver of its upload {is_what}, p50",
        statistics.median(ratios),
        "x",
        _LIMIT,
        note=f"{ROUNDS} rounds of {ratios[0]:.2f} to {ratios[-1]:.2f}; while it answers "
        f"{statistics.median(medians[ANSWER]) * 1e3:.2f} ms",
    )


def _steps(
    callback: LinesideCallback, given: tuple[Any, Any, Any], work: Callable[[], object]
) -> list[float]:
    """The seconds of each step."""
    state, took = given[1], []
    for _ in range(STEPS):
        started = time.perf_counter()
        state.global_step += 1
        callback.on_step_begin(*given)
        work()
        callback.on_step_end(*given)
        callback.on_log(*given, logs=LOGS)
        took.append(time.perf_counter() - started)
    return took


def _work() -> Callable[[], object]:
    """The same work each time, of about five milliseconds."""
    matrix = torch.rand(128, 128)

    def multiply(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            torch.mm(matrix, matrix)
        return time.perf_counter() - started

    multiply(100)
    each = statistics.median(multiply(20) for _ in range(20)) / 20
    count = max(1, round(STEP_SECONDS / each))
    return lambda: multiply(count)


@contextmanager
def _receiver(case: str, port: str) -> Iterator[None]:
    if case == AWAY:
        yield
        return
    with _process("-m", "benchmarks.uploads.receiver", port, case):
        yield


@contextmanager
def _uploader(home: Path, config: Path) -> Iterator[None]:
    log = home / "uploader.log"
    log.write_bytes(b"")
    with (
        log.open("ab") as output,
        _process("-m", "lineside.cli", "uploader", "bench", "--config", str(config), log=output),
    ):
        deadline = time.monotonic() + 60
        while "started, pid" not in log.read_text():
            if time.monotonic() > deadline:
                raise TimeoutError(log.read_text())
            time.sleep(0.05)
        time.sleep(_PAUSE_SECONDS)
        yield


@contextmanager
def _process(*command: str, log: Any = subprocess.DEVNULL) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
