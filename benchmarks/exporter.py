"""The exporter beside 200 running runs of 100 metrics: a scrape's time, processor time, memory.

Real broker, real `lineside exporter`. Another process publishes, for each run, two steps and a
heartbeat a second, and a log of 100 metrics every five seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.table import Row
from lineside.bus.client.producer import Producer, ProducerConnection
from lineside.bus.testing import BrokerProcess

RUNS, METRICS = 200, 100
SECONDS = 40.0
SCRAPE_SECONDS = 5.0
LOG_SECONDS = 5
STEP_KINDS = ("step_begin", "pre_optimizer_step", "optimizer_step", "step_end")
ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
_spawn = multiprocessing.get_context("spawn")


def measure() -> list[Row]:
    """Milliseconds a scrape, percent of a core, and megabytes."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        BrokerProcess(Path(folder)) as broker,
    ):
        idle, _, _ = _observe(Path(folder), SECONDS / 2)
        publisher = _spawn.Process(target=_publish, args=(broker.address,), daemon=True)
        publisher.start()
        try:
            busy, memory, scrapes = _observe(Path(folder), SECONDS)
        finally:
            publisher.terminate()
            publisher.join()
    what = f"{RUNS} runs of {METRICS} metrics"
    return [
        Row(f"a scrape of {what}, p50", statistics.median(scrapes), "ms", 50),
        Row("the same, the slowest", max(scrapes), "ms", 50, note=f"of {len(scrapes)}"),
        Row(f"the exporter at {what}", 100 * busy, "% of a core", 10),
        Row("the same, memory", memory, "MB", 250),
        Row("the exporter without a run", 100 * idle, "% of a core", 1),
    ]


def _observe(home: Path, seconds: float) -> tuple[float, float, list[float]]:
    """The share of a core and the memory of an exporter, and the times of its scrapes."""
    log = home / "exporter.log"
    with log.open("wb") as output:
        exporter = subprocess.Popen(
            [sys.executable, "-m", "lineside.cli", "exporter", "--port", "0"],
            env={**os.environ, "LINESIDE_HOME": str(home)},
            stderr=output,
        )
    try:
        url = _wait_page(log)
        time.sleep(2 * SCRAPE_SECONDS)  # all runs have logged, and a page shows them
        began, cpu = time.monotonic(), _cpu_seconds(exporter.pid)
        scrapes = []
        while time.monotonic() < began + seconds:
            started = time.perf_counter()
            with urllib.request.urlopen(urllib.request.Request(url, headers=ACCEPT)) as answer:  # noqa: S310
                answer.read()
            scrapes.append(1000 * (time.perf_counter() - started))
            time.sleep(SCRAPE_SECONDS)
        share = (_cpu_seconds(exporter.pid) - cpu) / (time.monotonic() - began)
        return share, _resident_bytes(exporter.pid) / 1e6, scrapes
    finally:
        exporter.terminate()
        exporter.wait()


def _wait_page(log: Path) -> str:
    for _ in range(600):
        _, found, rest = log.read_text().partition("exporter: http://")
        if found and "\n" in rest:
            url = f"http://{rest.split()[0]}"
            try:
                urllib.request.urlopen(url).close()
            except urllib.error.HTTPError:
                pass  # it still reads the journal
            else:
                return url
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _publish(address: str) -> None:
    connection = ProducerConnection(address)
    ranks = [Producer(address, f"run-{n:03}/rank0/a1", connection) for n in range(RUNS)]
    shippers = [Producer(address, f"run-{n:03}/shipper/s1", connection) for n in range(RUNS)]
    for n, rank in enumerate(ranks):
        facts = {"name": f"run {n}", "project": f"project {n % 5}", "source": "trainer"}
        rank.emit("run_start", data={**facts, "world_size": 1, "process": {"host": "node"}})
        rank.emit("train_begin", data={"state": {"max_steps": 1_000_000}})
    step, second = 0, 0
    while True:
        began = time.monotonic()
        beat = {"producer": "rank0", "attempt": "a1", "phase": "training", "hook_age": 0.1,
                "rss": 1 << 30, "step": step, "hooks": step, "hook_ns": step * 1000}  # fmt: skip
        for n, (rank, shipper) in enumerate(zip(ranks, shippers, strict=True)):
            for offset in (1, 2):
                for kind in STEP_KINDS:
                    rank.emit(kind, step=step + offset)
            if (second + n) % LOG_SECONDS == 0:
                logs = {f"group/metric {m}": m + step * 0.001 for m in range(METRICS)}
                rank.emit("log", step=step + 2, data={"logs": logs})
            shipper.emit("heartbeat", data=beat)
        while any(producer.acked < producer.next_seq for producer in (*ranks, *shippers)):
            connection.poll(0.5)
        for producer in (*ranks, *shippers):
            producer.drop_acked()
        step, second = step + 2, second + 1
        time.sleep(max(0.0, began + 1 - time.monotonic()))


if __name__ == "__main__":
    from benchmarks.table import markdown

    print(markdown(measure()))
