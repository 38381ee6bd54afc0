"""Publishes ``process_exit``: how the command of ``lineside run`` ended, for the runs it opened."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.bus.settings import Settings
from lineside.emitter.spool import backlog, directory
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.confirmation import wait_confirmed as wait_until_confirmed
from lineside.emitter.spool.sidecar_process import ShipperStarter
from lineside.emitter.spool.status_reader import StatusFields, StreamInfo, read_page
from lineside.emitter.spool.writer import SpoolWriter
from lineside.emitter.training import launch_registry
from lineside.emitter.training.console import print_once

PRODUCER = "launcher"
_RANK_0 = "rank0"
_CONFIRM_SECONDS = 3.0


class CommandExit(NamedTuple):
    """How a command ended: ``status`` is its exit code, or minus n if signal n ended it.

    ``seconds`` is how long it ran, ``ended_at`` is in seconds since the epoch. ``kill_count`` is
    how often the kernel killed a process meanwhile because memory was full, None if unknown.
    ``pids`` are the streams that it had opened, oldest first, each with the own id of its process.
    """

    argv: Sequence[str]
    status: int
    seconds: float
    ended_at: float
    kill_count: int | None
    pids: Mapping[Stream, int]

    def common_data(self) -> dict[str, Any]:
        """The data that is the same for every run."""
        return {
            "exit_code": self.status if self.status >= 0 else None,
            "signal": _signal_name(-self.status) if self.status < 0 else None,
            "out_of_memory": None if self.kill_count is None else self.kill_count > 0,
            "argv": list(self.argv),
            "seconds": self.seconds,
        }


def opened_streams(folder: Path, spool: Path) -> dict[Stream, int]:
    """The streams registered in ``folder``, oldest first, each with the own id of its process."""
    return {
        stream: StreamInfo.read(spool.joinpath(*stream)).pid
        for stream in launch_registry.read(folder)
    }


def record(
    command_exit: CommandExit, outlived: Collection[int], settings: Settings
) -> list[Unconfirmed]:
    """Publish the end for each run of the command; the events that may not be confirmed yet.

    ``outlived`` are the processes that outlived the command, by their own ids.
    """
    if not command_exit.pids:
        trained = "the command trained nothing until it ended"
        print_once(f"no run was recorded: {trained}, or its Python has no lineside")
        return []
    *_, last = command_exit.pids
    common_data, unconfirmed, spool = command_exit.common_data(), [], settings.spool
    starter = ShipperStarter(spool, settings.broker)
    for run, attempt in {stream.run: stream.attempt for stream in command_exit.pids}.items():
        folder = spool / run / _RANK_0 / attempt
        fields = read_page(folder)
        if run != last.run and _has_ended(folder, fields):
            continue  # the command went on after this run, so its end does not concern it
        data = {
            "attempt": attempt,
            "emitted": fields.next_seq if fields else None,
            "outlived": _has_outlived(command_exit, run, attempt, outlived),
            **common_data,
        }
        try:
            own = Stream(run, PRODUCER, new_attempt())
            writer = SpoolWriter(spool, own, role="launcher")
            writer.write("process_exit", data=data, wall=command_exit.ended_at)
            writer.close()
            unconfirmed.append(Unconfirmed(writer.folder.path, writer.next_seq, starter))
        except (OSError, LinesideError) as error:
            print_once(f"how {run} ended cannot be recorded: {error}")
    return unconfirmed


def wait_confirmed(unconfirmed: Sequence[Unconfirmed], command_exit: CommandExit) -> None:
    """Wait some seconds for the confirmation: a container may end together with this process."""
    starter = unconfirmed[0].shipper_starter
    starter.ensure()
    # If nothing of the runs was confirmed, no broker can be reached.
    if any(directory.acked_seq(starter.spool.joinpath(*stream)) for stream in command_exit.pids):
        wait_until_confirmed(unconfirmed, time.monotonic() + _CONFIRM_SECONDS)


def _has_outlived(
    command_exit: CommandExit, run: str, attempt: str, outlived: Collection[int]
) -> bool:
    """Whether rank 0's process outlived the command; any rank's if rank 0 ran elsewhere."""
    ranks = {
        stream.producer: pid
        for stream, pid in command_exit.pids.items()
        if (stream.run, stream.attempt) == (run, attempt)
    }
    candidates = [ranks[_RANK_0]] if _RANK_0 in ranks else ranks.values()
    return any(pid in outlived for pid in candidates)


def _has_ended(folder: Path, fields: StatusFields | None) -> bool:
    """Whether the training in ``folder`` reports its own end, or was removed long after it."""
    try:
        return not folder.exists() or backlog.has_ended(folder, fields)
    except OSError:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"
