"""The data of ``process_exit``: how the command of ``lineside run`` ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.bus.settings import Settings
from lineside.emitter.launch import exit_event
from lineside.emitter.launch.exit_event import CommandExit
from tests.emitter.conftest import read_spool
from tests.emitter.spool.spools import MakeWriter
from tests.emitter.streams import data_of, only

RANK_0, RANK_8 = Stream("run", "rank0", "attempt"), Stream("run", "rank8", "attempt")


def published(root: Path, pids: dict[Stream, int], outlived: set[int]) -> bool:
    """Publish the end; whether the training outlived it."""
    command_exit = CommandExit(["train"], 3, 5.0, time.time(), None, pids)
    exit_event.record(command_exit, outlived, Settings(home=root, spool=root, broker="", store=""))
    data = data_of(only(read_spool(root, exit_event.PRODUCER))[0])
    assert (data["attempt"], data["exit_code"], data["seconds"]) == ("attempt", 3, 5.0)
    return bool(data["outlived"])


@pytest.mark.parametrize(("outlived", "expected"), [({7}, True), ({8}, False), (set(), False)])
@pytest.mark.parametrize("stream", [RANK_0, RANK_8])
def test_a_training_outlives_its_command_with_rank_0_or_any_rank_where_rank_0_is_elsewhere(
    root: Path, make: MakeWriter, stream: Stream, outlived: set[int], expected: bool
) -> None:
    make(stream=stream)
    assert published(root, {stream: 7}, outlived) is expected


def test_rank_0_counts_before_other_ranks(root: Path, make: MakeWriter) -> None:
    make(stream=RANK_0)
    make(stream=RANK_8)
    assert published(root, {RANK_0: 7, RANK_8: 8}, {8}) is False


def test_the_launcher_loads_no_job_store_and_no_shipper() -> None:
    code = (
        "import sys, lineside.emitter.launch.command\n"
        "unwanted = {'zmq', 'torch', 'lineside.emitter.training.job_store',\n"
        "    'lineside.emitter.training.shutdown', 'lineside.emitter.shipper'}\n"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
