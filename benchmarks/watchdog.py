"""The watchdog beside running runs: its processor time and memory, at 20 runs and at 200.

Real broker, real recorder, real `lineside watchdog`. Another process publishes as for the exporter,
with ten metrics a log and twelve of a sampler. Beside it, in the same seconds: a Python that only
wakes as often and has the same packages.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.shipper import cpu_seconds, megabytes, start_python, wait_for
from benchmarks.table import Row
from lineside.bus.client.producer import Producer, ProducerConnection
from lineside.bus.testing import BrokerProcess
from lineside.store.database.engine import open_store
from lineside.store.history.history import History

SMALL, LARGE = 20, 200
METRICS, GPUS = 10, 4
SECONDS = 40.0
WARM_UP_SECONDS = 15.0
LOG_SECONDS, SAMPLE_SECONDS = 5, 10
STEP_KINDS = ("step_begin", "pre_optimizer_step", "optimizer_step", "step_end")
_IDLER = "import time, sqlalchemy, pydantic, zmq, msgpack, typer\nwhile True: time.sleep(0.5)"
_spawn = multiprocessing.get_context("spawn")


def measure() -> list[Row]:
    """Percent of a core, and megabytes."""
    rows = []
    for runs, most_busy, most_memory in ((SMALL, 2, 120), (LARGE, 10, 150)):
        busy, memory, idler = _observe(runs)
        beside = f"a Python with its packages {idler:.1f} MB"
        rows += [
            Row(f"the watchdog at {runs} runs", 100 * busy, "% of a core", most_busy),
            Row("the same, memory", memory, "MB", most_memory, note=beside),
        ]
    return rows


def _observe(runs: int) -> tuple[float, float, float]:
    """The share of a core and the memory of a watchdog, and the memory of an idle Python."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        BrokerProcess(Path(folder)) as broker,
        ExitStack() as stack,
    ):
        idler = start_python(stack, _IDLER)
        _service(stack, folder, "recorder")
        publisher = _spawn.Process(target=_publish, args=(broker.address, runs), daemon=True)
        publisher.start()
        stack.callback(publisher.join)
        stack.callback(publisher.terminate)
        store = f"sqlite:///{folder}/store.db"
        wait_for(lambda: Path(folder, "store.db").exists())
        time.sleep(1)
        engine = open_store(store, create=True)
        stack.callback(engine.dispose)
        wait_for(lambda: History(engine).counts().get("running") == runs)
        watchdog = _service(stack, folder, "watchdog")
        time.sleep(WARM_UP_SECONDS)
        began, cpu = time.monotonic(), cpu_seconds(watchdog)
        time.sleep(SECONDS)
        share = (cpu_seconds(watchdog) - cpu) / (time.monotonic() - began)
        opened = History(engine).alerts.counts()
        assert not opened, f"healthy runs have alerts: {opened}"
        return share, megabytes(watchdog), megabytes(idler)


def _service(stack: ExitStack, home: str, name: str) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "lineside.cli", name],
        env={**os.environ, "LINESIDE_HOME": home},
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


def _publish(address: str, runs: int) -> None:
    connection = ProducerConnection(address)
    names = [f"run-{n:03}" for n in range(runs)]
    ranks = [Producer(address, f"{name}/rank0/a1", connection) for name in names]
    shippers = [Producer(address, f"{name}/shipper/s1", connection) for name in names]
    samplers = [Producer(address, f"{name}/sampler-node{n}/s1", connection)
                for n, name in enumerate(names)]  # fmt: skip
    for n, rank in enumerate(ranks):
        facts = {"name": f"run {n}", "project": f"project {n % 5}", "source": "trainer"}
        rank.emit("run_start", data={**facts, "world_size": 4, "process": {"host": f"node{n}"}})
        rank.emit("train_begin", data={"state": {"max_steps": 1_000_000}})
    sample = {"host/cpu_ratio": 0.5, "host/memory_used_bytes": 1e9}
    for gpu in range(GPUS):
        sample |= {f"gpu{gpu}/utilization_ratio": 0.9, f"gpu{gpu}/memory_used_bytes": 2e10}
    sample |= {"filesystem/output/available_bytes": 1e12, "filesystem/output/size_bytes": 2e12}
    step, second = 0, 0
    while True:
        began = time.monotonic()
        beat = {"producer": "rank0", "attempt": "a1", "phase": "training", "hook_age": 0.1,
                "rss": 1 << 30, "step": step, "hooks": step, "hook_ns": step * 1000}  # fmt: skip
        for n, rank in enumerate(ranks):
            for offset in (1, 2):
                for kind in STEP_KINDS:
                    rank.emit(kind, step=step + offset)
            if (second + n) % LOG_SECONDS == 0:
                logs = {f"metric {m}": m + step * 0.001 for m in range(METRICS - 2)}
                logs |= {"loss": 2 + 8 * 0.99**step, "learning_rate": 1e-4}
                rank.emit("log", step=step + 2, data={"logs": logs})
            shippers[n].emit("heartbeat", data=beat)
            if (second + n) % SAMPLE_SECONDS == 0:
                samplers[n].emit("metrics", step=step, data={"metrics": sample})
        producers = (*ranks, *shippers, *samplers)
        while any(producer.acked < producer.next_seq for producer in producers):
            connection.poll(0.5)
        for producer in producers:
            producer.drop_acked()
        step, second = step + 2, second + 1
        time.sleep(max(0.0, began + 1 - time.monotonic()))


if __name__ == "__main__":
    from benchmarks.table import markdown

    print(markdown(measure()))
