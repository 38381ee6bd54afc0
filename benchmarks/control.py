"""The time of a command from sent to applied, and the cost of polling for one.

A loop of steps beside a real broker and a real shipper, in one process with its steering, as a
Trainer's callback has it. Each command is ``log``, which costs the step nothing.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.table import Row
from lineside.bus.client.command_client import CommandClient
from lineside.bus.protocol.commands import Command
from lineside.bus.testing import BrokerProcess
from lineside.emitter import start_run
from lineside.emitter.control.leader import LeaderExecutor
from lineside.emitter.control.trainer_actions import HookContext
from lineside.emitter.training.publisher import Publisher

COMMANDS = 300
STEP_SECONDS = 0.005
POLLS = 200_000


def measure() -> list[Row]:
    """Milliseconds from sent to applied less a step, and microseconds of one poll."""
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(Path(folder)) as broker:
        os.environ["LINESIDE_HOME"] = folder
        run = start_run("bench", run_id="bench")
        assert run.publisher is not None
        executor = LeaderExecutor(run.publisher, None, 0)
        poll_microseconds = _time_poll(executor)
        took: list[float] = []
        sender = threading.Thread(target=_send_commands, args=(broker.address, took))
        sender.start()
        _train(run.publisher, executor, sender)
        executor.close()
        run.finish()
    delays = sorted(1_000 * (seconds - STEP_SECONDS) for seconds in took)
    step = f"steps of {1_000 * STEP_SECONDS:g} ms, {len(delays)} commands"
    return [
        Row("command to applied, less a step, p50", statistics.median(delays), "ms", 10, note=step),
        Row("command to applied, less a step, p99", delays[int(len(delays) * 0.99)], "ms", 30),
        Row("a look for commands at a step's end", poll_microseconds, "us", 0.5),
    ]


def _train(publisher: Publisher, executor: LeaderExecutor, sender: threading.Thread) -> None:
    args = SimpleNamespace(save_strategy="no")
    state = SimpleNamespace(global_step=0, epoch=0.0)
    control = SimpleNamespace(should_log=False)
    while sender.is_alive():
        time.sleep(STEP_SECONDS)
        state.global_step += 1
        publisher.maintain_if_due()  # as a hook does
        if executor.is_due(state):
            executor.apply_commands(HookContext("step_end", args, state, control, {}))


def _send_commands(address: str, took: list[float]) -> None:
    with CommandClient(address) as client:
        time_one(client, "bench")  # it waits for a shipper to be started
        for _ in range(COMMANDS):
            time.sleep(0.01)
            took.append(time_one(client, "bench"))


def time_one(client: CommandClient, run: str) -> float:
    """Seconds from sending a command to its application.

    Raises:
        RuntimeError: it was not applied, so there is nothing to measure.
    """
    command = Command("log")
    sent = time.time()
    client.send(run, command)
    *_, last = client.follow(run, command.id, 60)
    if last.state != "applied":
        raise RuntimeError(f"{command.op} was {last.state}: {last.detail}")
    return last.time - sent


def _time_poll(executor: Any) -> float:
    state = SimpleNamespace(global_step=0)
    started = time.perf_counter_ns()
    for _ in range(POLLS):
        if executor.is_due(state):
            raise AssertionError("no command was sent yet")
    both = time.perf_counter_ns() - started
    started = time.perf_counter_ns()
    for _ in range(POLLS):
        pass
    return (both - (time.perf_counter_ns() - started)) / POLLS / 1_000
