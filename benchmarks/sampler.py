"""Memory and CPU of a sampler beside one training, and beside idle Python processes.

The training is idle: it holds its stream's lock. The sampler reads the machine and the training's
processes every 10 s, and every GPU where there is a driver. Beside it, measured in the same
seconds: a Python that only wakes as often (processor) and one that only imports psutil and NVML
(memory).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.shipper import (
    PRODUCER,
    WARM_UP_SECONDS,
    cpu_seconds,
    megabytes,
    start_python,
    wait_for,
)
from benchmarks.table import Row
from lineside.emitter.sampler.starter import SamplerStarter, lock_name
from lineside.emitter.spool.sidecar_process import lock_holder

SECONDS = 60.0  # six samples
_IDLER = "import time, psutil, pynvml, msgpack\nwhile True: time.sleep(0.5)"


def measure() -> list[Row]:
    """Memory in MB (resident, shared libraries included) and processor in % of one core."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        spool = Path(folder) / "spool"
        start_python(stack, PRODUCER, str(spool))
        idler = start_python(stack, _IDLER)
        wait_for(lambda: (spool / "quiet" / "rank0" / "a1").is_dir())
        lock = spool / lock_name()
        SamplerStarter(spool, "ipc:///nowhere").ensure()
        wait_for(lambda: lock_holder(lock) is not None)
        sampler = lock_holder(lock) or 0
        stack.callback(os.kill, sampler, 9)
        time.sleep(WARM_UP_SECONDS)
        before, baseline_before = cpu_seconds(sampler), cpu_seconds(idler)
        time.sleep(SECONDS)
        busy = (cpu_seconds(sampler) - before) / SECONDS * 100
        baseline_busy = (cpu_seconds(idler) - baseline_before) / SECONDS * 100
        memory, baseline_memory = megabytes(sampler), megabytes(idler)
        processes = sum(entry.name.isdigit() for entry in Path("/proc").iterdir())
    return [
        Row(
            "sampler memory",
            memory,
            "MB",
            40,
            note=f"a Python with psutil, NVML and msgpack {baseline_memory:.1f} MB",
        ),
        Row(
            "sampler CPU",
            busy,
            "%",
            0.3,
            note=f"{processes} processes, {_gpus()}; "
            f"a Python that only wakes twice a second {baseline_busy:.2f} %",
        ),
    ]


def _gpus() -> str:
    code = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return f"{asked.stdout.strip()} GPUs" if asked.returncode == 0 else "no GPU"
