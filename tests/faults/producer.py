"""Emits events until a stop file appears, and notes each event whose call has returned.

Run as ``producer.py PLAN``, where ``PLAN`` is JSON:

- ``runs``: each run's id and the file for its notes, lines of ``kind step monotonic_ns took_ns``;
  each run has a thread of its own
- ``stop``: the file that ends the process when it appears
- ``pause``: seconds between events
- ``ballast``: bytes of extra text in each log
- ``steps``: whether a ``step_end`` comes before each log
- ``rare``: the number of logs between two rare events, 0 for none
- ``cap``: the limit of the spool, 0 for the default
- ``exit_code``: the exit code
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.emitter import start_run
from lineside.emitter.spool.writer import SpoolWriter
from lineside.emitter.training import publisher

LOOK_EVERY = 16
RARE = ("evaluate", "save", "epoch_end")


def emit(run_id: str, noted: Path, plan: dict[str, Any]) -> None:
    """Emit one run: ``train_begin``, numbered steps with a log each, rare events, ``train_end``."""
    stop = Path(plan["stop"])
    notes = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    extra = {"ballast": "x" * plan["ballast"]} if plan["ballast"] else {}
    with start_run(run_id=run_id) as run:

        def note(kind: str, step: int, begun: int) -> None:
            now = time.monotonic_ns()
            os.write(notes, f"{kind} {step} {now} {now - begun}\n".encode())

        def mark(kind: str, step: int) -> None:
            begun = time.monotonic_ns()
            data = {"state": {}, "metrics": {"n": step}, "checkpoint": f"/none/checkpoint-{step}"}
            run.event(kind, None if kind in STEP_KINDS else data, step=step)
            note(kind, step, begun)

        mark("train_begin", 0)
        n = 0
        while n % LOOK_EVERY or not stop.exists():
            n += 1
            if plan["steps"]:
                mark("step_end", n)
            begun = time.monotonic_ns()
            run.log({"n": n, **extra}, step=n)
            note("log", n, begun)
            if plan["rare"] and n % plan["rare"] == 0:
                for kind in RARE:
                    mark(kind, n)
            if plan["pause"]:
                time.sleep(plan["pause"])
        mark("train_end", n)
    os.close(notes)


def main(plan: dict[str, Any]) -> int:
    """Emit every run of the plan at once; the exit code."""
    if plan["cap"]:
        small = functools.partial(SpoolWriter, cap=plan["cap"], segment=plan["cap"] // 8)
        publisher.SpoolWriter = small  # type: ignore[attr-defined, assignment]
    threads = [
        threading.Thread(target=emit, args=(run_id, Path(noted), plan))
        for run_id, noted in plan["runs"].items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return int(plan["exit_code"])


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
