"""Every way in which a run can end, with and without ``lineside run``, has its own status."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from lineside.bus.client.command_client import CommandClient
from lineside.bus.protocol.commands import Command
from lineside.store.recording.progress import MIN_STALL_SECONDS
from lineside.store.status.liveness import DISCONNECT_SECONDS
from tests.endings_harness import LOOP, SCRIPT, TIMEOUT_SECONDS, Deployment, EndingsHarness
from tests.support.forked import TORCHRUN
from tests.support.waiting import wait_until

pytest.importorskip("transformers")
PROMISED_SECONDS = 2.0
SLACK_SECONDS = 20.0  # thirty trainings start and end at once on two cores
TYPICAL_SECONDS = 3 * PROMISED_SECONDS  # the median
ORDERLY = {"finished", "stopped"}
MEMORY = Path("/sys/fs/cgroup/memory")
BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Row:
    """A way to end: the training acts on itself, or ``act`` acts on it.

    ``act`` answers when, in seconds since the epoch. The reason is a regular expression.
    """

    name: str
    scenario: str
    status: str
    reason: str = ""
    act: Callable[[EndingsHarness, Row], float] | None = None
    env: dict[str, str] = field(default_factory=dict)
    script: Path = SCRIPT

    @property
    def launched(self) -> bool:
        return self.name.startswith("run: ")

    @property
    def run(self) -> str:
        return re.sub(r"\W+", "-", self.name)


def send(number: signal.Signals, harness: EndingsHarness, row: Row) -> float:
    """Send a signal to the launcher, as ``docker stop`` does, or without one to the training."""
    if row.launched:
        pid = harness.launch(row.run, row.script, row.scenario, row.env).pid
        harness.wait_training(row.run, harness.main)
    else:
        pid = start_training(harness, row, harness.main)
    os.kill(pid, number)
    return time.time()


def send_to_all(number: signal.Signals, harness: EndingsHarness, row: Row) -> float:
    """Send a signal to the process group, as a scheduler or a terminal does."""
    process = harness.launch(row.run, row.script, row.scenario, row.env)
    harness.wait_training(row.run, harness.main)
    os.killpg(process.pid, number)
    return time.time()


def send_to_training(number: signal.Signals, harness: EndingsHarness, row: Row) -> float:
    harness.launch(row.run, row.script, row.scenario, row.env)
    os.kill(harness.wait_training(row.run, harness.main), number)
    return time.time()


def send_twice(number: signal.Signals, harness: EndingsHarness, row: Row) -> float:
    """Send a signal twice, far enough apart that the second is not taken for the first."""
    pid = start_training(harness, row, harness.main)
    os.kill(pid, number)
    time.sleep(5.5)
    os.kill(pid, number)
    return time.time()


def stop(harness: EndingsHarness, row: Row) -> float:
    start_training(harness, row, harness.main)
    return command("stop", harness.main, row)


def pause_and_stop(harness: EndingsHarness, row: Row) -> float:
    start_training(harness, row, harness.main)
    wait_shown(harness.main, row.run, "running", "paused", command("pause", harness.main, row))
    run = harness.main.run(row.run)
    assert run is not None
    assert (run.status, run.phase) == ("running", "paused")
    return command("stop", harness.main, row)


def freeze_and_thaw(harness: EndingsHarness, row: Row) -> float:
    """SIGSTOP until the run is shown as stalled, SIGCONT, then SIGKILL."""
    pid = start_training(harness, row, harness.main)
    os.kill(pid, signal.SIGSTOP)
    # The last hook may be a step older.
    reason = r"while (training|waiting), no hook was called since .* UTC"
    wait_shown(harness.main, row.run, "stalled", reason, time.time() + MIN_STALL_SECONDS - 10.0)
    os.kill(pid, signal.SIGCONT)
    wait_shown(harness.main, row.run, "running", "", time.time())
    os.kill(pid, signal.SIGKILL)
    return time.time()


def cut_off_and_back(harness: EndingsHarness, row: Row) -> float:
    """Freeze the broker until the run is shown as disconnected, resume it, then SIGKILL."""
    deployment = harness.other
    pid = start_training(harness, row, deployment)
    deployment.stack.broker.freeze()
    wait_shown(deployment, row.run, "disconnected", "", time.time() + DISCONNECT_SECONDS - 10.0)
    deployment.stack.broker.resume()
    wait_shown(deployment, row.run, "running", "", time.time())
    assert set(deployment.status_history.statuses(row.run)) == {"running", "disconnected"}
    os.kill(pid, signal.SIGKILL)
    return time.time()


def one_of_two_ranks(harness: EndingsHarness, row: Row) -> float:
    """torchrun polls slowly, so that the other rank reports its own error."""
    ranks = ["--standalone", "--monitor-interval", "3", "--nproc_per_node", "2"]
    command: list[str | Path] = [TORCHRUN, *ranks, SCRIPT, row.scenario, harness.output(row.run)]
    harness.fork(row.run, command, row.env, harness.main)
    return harness.event_time(row.run)


def one_after_another(harness: EndingsHarness, row: Row) -> float:
    """The second of two runs in one process is killed; the first has finished."""
    process = harness.launch("both", row.script, row.scenario, {**row.env, "LINESIDE_RUN_ID": ""})
    process.wait(TIMEOUT_SECONDS)
    ended = time.time()
    wait_shown(harness.main, "run-the-first", "finished", "", 0.0)
    assert harness.main.status_history.statuses("run-the-first")[-1] == "finished"
    return ended


def run_out_of_memory(harness: EndingsHarness, row: Row) -> float:
    """Train in a memory cgroup with a limit."""
    group = MEMORY / f"lineside-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(BYTES))
        process = harness.launch(row.run, row.script, row.scenario, row.env, group)
        process.wait(TIMEOUT_SECONDS)
        ended = time.time()
    finally:
        # The launcher may have started the shipper in this cgroup.
        for pid in (group / "cgroup.procs").read_text().split():
            (MEMORY / "cgroup.procs").write_text(pid)
        group.rmdir()
    return ended


BAD = "ValueError: bad batch"
INTERRUPTED = r"SIGINT \(KeyboardInterrupt\)"
VANISHED = r"the process vanished at step \d+"
PEER_KILLED = rf"rank1: {VANISHED}; rank0: RuntimeError: .*[Cc]onnection (closed|reset) by peer.*"
BY_COMMAND = r"by tester@here: enough of it \(command stop-1\)"
STOP_ON_SIGTERM = {"LINESIDE_STOP_ON_SIGTERM": "1"}
NO_STOP_ON_SIGTERM = {"LINESIDE_STOP_ON_SIGTERM": "0"}
INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL

# Where the launcher alone sees the end a loop stands for a training: it starts without torch.
ROWS = [
    Row("success", "success", "finished"),
    Row("early stopping by a callback", "early", "finished"),
    Row("exception", "exception", "failed", BAD),
    Row("exception caught", "caught", "failed", BAD),
    Row("exception caught and on", "caught_and_on", "failed", BAD),
    Row("sys.exit", "sys_exit", "failed", "SystemExit: 3"),
    Row("Ctrl-C", "endless", "interrupted", INTERRUPTED, partial(send, INT)),
    Row("SIGTERM", "endless", "lost", VANISHED, partial(send, TERM)),
    Row(
        "SIGTERM to stop", "endless", "stopped", "by SIGTERM", partial(send, TERM), STOP_ON_SIGTERM
    ),
    Row("SIGTERM twice", "slow_step", "lost", VANISHED, partial(send_twice, TERM), STOP_ON_SIGTERM),
    Row("SIGHUP", "endless", "lost", VANISHED, partial(send, HUP)),
    Row("os._exit", "os_exit", "lost", VANISHED),
    Row("kill -9", "endless", "lost", VANISHED, partial(send, KILL)),
    Row("kill -9 with workers", "workers", "lost", VANISHED, partial(send, KILL)),
    Row("segfault", "segfault", "lost", VANISHED),
    Row("abort", "abort", "lost", VANISHED),
    Row("stop by command", "endless", "stopped", BY_COMMAND, stop),
    Row("stop while paused", "endless", "stopped", BY_COMMAND, pause_and_stop),
    Row("SIGSTOP and SIGCONT, kill -9", "endless", "lost", VANISHED, freeze_and_thaw),
    Row("network cut and back, kill -9", "endless", "lost", VANISHED, cut_off_and_back),
    Row("one rank raises", "one_rank_raises", "failed", f"rank1: {BAD}", one_of_two_ranks),
    Row("one rank killed -9", "one_rank_killed", "failed", PEER_KILLED, one_of_two_ranks),
    Row("run: success", "success", "finished"),
    Row("run: exception", "exception", "failed", BAD),
    Row("run: os._exit", "os_exit", "failed", rf"({VANISHED}; )?exit code 3", script=LOOP),
    Row("run: segfault", "segfault", "killed", "SIGSEGV", script=LOOP),
    Row("run: abort", "abort", "killed", "SIGABRT", script=LOOP),
    Row("run: Ctrl-C", "endless", "interrupted", INTERRUPTED, partial(send, INT)),
    Row("run: SIGTERM", "endless", "stopped", "by SIGTERM", partial(send, TERM)),
    Row("run: SIGTERM to all", "endless", "stopped", "by SIGTERM", partial(send_to_all, TERM)),
    Row(
        "run: SIGTERM to end",
        "endless",
        "killed",
        "SIGTERM",
        partial(send, TERM),
        NO_STOP_ON_SIGTERM,
        LOOP,
    ),
    Row("run: SIGHUP", "endless", "killed", "SIGHUP", partial(send, HUP), script=LOOP),
    Row(
        "run: kill -9",
        "endless",
        "killed",
        "SIGKILL",
        partial(send_to_training, KILL),
        script=LOOP,
    ),
    Row("run: the second", "one_after_another", "killed", "SIGKILL", one_after_another),
]
# Needs a memory cgroup: a limit that malloc obeys raises an exception like any other.
NO_MEMORY = Row(
    "run: out of memory",
    "out_of_memory",
    "killed",
    r"SIGKILL \(out of memory\)",
    run_out_of_memory,
    script=LOOP,
)


def start_training(harness: EndingsHarness, row: Row, deployment: Deployment) -> int:
    """Start a training and wait until it trains; its pid."""
    pid = harness.train(row.run, row.scenario, row.env, deployment).pid
    harness.wait_training(row.run, deployment)
    return pid


def command(op: str, deployment: Deployment, row: Row) -> float:
    """Send a command and wait until it is applied; the time of that."""
    with CommandClient(deployment.stack.broker.address) as client:
        sent = Command(op, reason="enough of it", issued_by="tester@here", id=f"{op}-1")
        client.send(row.run, sent)
        *_, last = client.follow(row.run, sent.id, TIMEOUT_SECONDS)
        assert last.state == "applied", last
    return last.time


def wait_shown(
    deployment: Deployment, run: str, status: str, reason: str, event_time: float
) -> float:
    """Seconds from ``event_time`` until the store showed this status.

    Raises:
        TimeoutError: the store did not show it.
    """
    at = wait_until(
        lambda: deployment.status_history.since(run, status, reason, event_time),
        f"{run} is {status} ({reason}), and not {deployment.status_history.statuses(run)}",
        TIMEOUT_SECONDS,
    )
    return at - event_time


def deployment_of(harness: EndingsHarness, row: Row) -> Deployment:
    return harness.other if row.act is cut_off_and_back else harness.main


def run_row(harness: EndingsHarness, row: Row) -> float:
    """End a run in the way of ``row``; seconds until the store showed that and nothing after it."""
    deployment = deployment_of(harness, row)
    if row.act is not None:
        event_time = row.act(harness, row)
    else:
        if row.launched:
            harness.launch(row.run, row.script, row.scenario, row.env)
        else:
            harness.train(row.run, row.scenario, row.env, deployment)
        event_time = harness.event_time(row.run)
    # The store may show it before the end is noticed here.
    delay = wait_shown(deployment, row.run, row.status, row.reason, event_time - 10.0) - 10.0
    statuses = deployment.status_history.statuses(row.run)
    assert statuses[-1] == row.status, statuses
    assert row.status in ORDERLY or not ORDERLY & set(statuses), statuses
    return delay


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_way_to_end_is_shown_for_what_it_is(tmp_path: Path) -> None:
    rows, report, delays = list(ROWS), [], []
    if os.access(MEMORY, os.W_OK) and (MEMORY / "memory.oom_control").exists():
        rows.append(NO_MEMORY)
    with (
        EndingsHarness(tmp_path) as harness,
        ThreadPoolExecutor(12) as many,
        ThreadPoolExecutor(4) as few,
    ):
        # Long waits start first, and few new interpreters import torch at a time.
        rows.sort(key=lambda row: row.act not in (freeze_and_thaw, cut_off_and_back))
        alone = {row for row in rows if row.launched}
        waits = {row: (few if row in alone else many).submit(run_row, harness, row) for row in rows}
        for row, wait in waits.items():
            try:
                delay = wait.result()
                problem = "" if delay < PROMISED_SECONDS + SLACK_SECONDS else "late"
                delays.append(delay)
            except Exception as error:  # noqa: BLE001 - the table has every row
                delay, problem = 0.0, f"{error!r}\n{harness.log(row.run)}"
            report.append((f"{row.name:30} {row.status:12} {delay:6.2f} s  {problem}", problem))
        for row in rows:
            last = deployment_of(harness, row).status_history.statuses(row.run)[-1:]
            if last != [row.status]:
                report.append((f"{row.name:30} became {last} later", "not for good"))
    table = "\n".join(line for line, _ in report)
    if NO_MEMORY not in rows:
        table += f"\n{NO_MEMORY.name:30} skipped: no memory cgroup can be made in {MEMORY}"
    print(table)  # pytest shows it if the test fails
    assert not any(problem for _, problem in report), table
    assert median(delays) < TYPICAL_SECONDS, table
