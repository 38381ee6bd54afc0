"""Memory and CPU of a shipper with one idle stream, beside idle Python processes.

The stream's producer keeps its lock and its page and writes no event, as a training does in a long
evaluation; the shipper watches it and publishes its heartbeat. Beside it, measured in the same
seconds: a Python that only wakes as often (processor) and one that only imports the same libraries
(memory).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.table import Row
from lineside.bus.protocol.events import Stream
from lineside.bus.testing import BrokerProcess
from lineside.emitter.spool.sidecar_process import ShipperStarter, shipper_pid

WARM_UP_SECONDS = 5.0
SECONDS = 30.0
PRODUCER = """
import sys
from pathlib import Path
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool.writer import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), Stream("quiet", "rank0", "a1"))
writer.write("run_start")
sys.stdin.read()
"""
_IDLER = "import time, zmq, msgpack\nwhile True: time.sleep(0.25)"


def measure() -> list[Row]:
    """Memory in MB (resident, shared libraries included) and processor in % of one core."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        broker = stack.enter_context(BrokerProcess(Path(folder) / "bus"))
        spool = Path(folder) / "spool"
        start_python(stack, PRODUCER, str(spool))
        idler = start_python(stack, _IDLER)
        wait_for(lambda: spool.joinpath(*Stream("quiet", "rank0", "a1")).is_dir())
        ShipperStarter(spool, broker.address).ensure()
        wait_for(lambda: shipper_pid(spool) is not None)
        shipper = shipper_pid(spool) or 0
        stack.callback(os.kill, shipper, 9)
        time.sleep(WARM_UP_SECONDS)
        before, baseline_before = cpu_seconds(shipper), cpu_seconds(idler)
        time.sleep(SECONDS)
        busy = (cpu_seconds(shipper) - before) / SECONDS * 100
        baseline_busy = (cpu_seconds(idler) - baseline_before) / SECONDS * 100
        memory, baseline_memory = megabytes(shipper), megabytes(idler)
    return [
        Row(
            "shipper memory",
            memory,
            "MB",
            40,
            note=f"a Python with zmq and msgpack {baseline_memory:.1f} MB",
        ),
        Row(
            "shipper CPU idle",
            busy,
            "%",
            0.3,
            note=f"a Python that only wakes 4 times a second {baseline_busy:.2f} %",
        ),
    ]


def start_python(stack: ExitStack, code: str, *arguments: str) -> int:
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE)
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process.pid


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    """Time on a core, all threads together; finer than the clock ticks of /proc/pid/stat."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
