"""Loops with start_run that only their launcher sees end: ``endings_loop.py SCENARIO OUTPUT``."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lineside.emitter import start_run

AT_STEP = 3
STEP_SECONDS = 0.2
EVENT_TIME_FILE = "fact"
"""The file with the time at which a training acts on itself."""

# Coverage sets a handler in every process, which ends the process.
signal.signal(signal.SIGTERM, signal.SIG_DFL)


def do_nothing() -> None:
    """Continue."""


def os_exit() -> None:
    os._exit(3)


def segfault() -> None:
    ctypes.string_at(0)


def take_memory() -> None:
    """Take all memory."""
    taken = []
    while True:
        taken.append(bytearray(b"x" * (64 << 20)))


SCENARIOS: Mapping[str, Callable[[], object]] = {
    "endless": do_nothing,
    "os_exit": os_exit,
    "segfault": segfault,
    "abort": os.abort,
    "out_of_memory": take_memory,
}


def act_now(output: Path, act: Callable[[], object]) -> None:
    """Write down the time, then act."""
    (output / EVENT_TIME_FILE).write_text(str(time.time()))
    act()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with start_run() as run:
        for step in itertools.count(1):
            time.sleep(STEP_SECONDS)
            run.event("step_end", step=step)
            run.log({"loss": 1.0}, step=step)
            if step == AT_STEP:
                act_now(Path(sys.argv[2]), SCENARIOS[sys.argv[1]])
