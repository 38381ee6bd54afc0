"""``process_exit``: how the command of ``lineside run`` ended, told of the runs that it opened."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.bus.settings import Settings
from lineside.emitter.spool import directory, status_reader
from lineside.emitter.spool.shipper_process import ShipperStarter
from lineside.emitter.spool.status_reader import StatusFields
from lineside.emitter.spool.writer import SpoolWriter
from lineside.emitter.training.console import print_once
from lineside.emitter.training.redaction import redact_argv
from lineside.emitter.training.shutdown import Unconfirmed

PRODUCER = "launcher"
_RANK_0 = "rank0"
_CONFIRM_SECONDS = 3.0
_GRACE_SECONDS = 1.0


class CommandExit(NamedTuple):
    """How a command ended: ``status``, minus n if signal n did it.

    ``began`` and ``monotonic`` are seconds of the pages' clock, ``wall`` since the epoch;
    ``kill_count``
    says how often the kernel killed for want of memory meanwhile, None where that is not known;
    ``left`` has the streams opened by then, each with its page if its process was left behind.
    """

    argv: Sequence[str]
    status: int
    began: float
    monotonic: float
    wall: float
    kill_count: int | None
    pages: dict[Stream, StatusFields | None]

    def common_data(self) -> dict[str, Any]:
        """What is said of every run."""
        return {
            "exit_code": self.status if self.status >= 0 else None,
            "signal": _signal_name(-self.status) if self.status < 0 else None,
            "out_of_memory": None if self.kill_count is None else self.kill_count > 0,
            "argv": redact_argv(self.argv),
            "seconds": self.monotonic - self.began,
        }


def record(ended: CommandExit, alive: set[int], settings: Settings) -> list[Unconfirmed]:
    """Tell of the command's runs how it ended; what of that the bus may not have confirmed yet.

    ``alive`` are the training processes that live, by their own ids.
    """
    if not ended.pages:
        trained = "the command trained nothing until it ended"
        print_once(f"no run was recorded: {trained}, or its Python has no lineside")
        return []
    *_, last = ended.pages
    common_data, unconfirmed, spool = ended.common_data(), [], settings.spool
    ensure = ShipperStarter(spool, settings.broker).ensure
    for run, attempt in {stream.run: stream.attempt for stream in ended.pages}.items():
        folder = spool / run / _RANK_0 / attempt
        fields = status_reader.read_page(folder)
        if run != last.run and _has_ended(folder, fields):
            continue  # the command went on after it: how that ended says nothing of it
        more = {
            "attempt": attempt,
            "emitted": fields.next_seq if fields else None,
            "outlived": _outlived(ended, run, attempt, alive, spool),
        }
        try:
            own = Stream(run, PRODUCER, new_attempt())
            writer = SpoolWriter(spool, own, role="launcher")
            writer.write("process_exit", data={**more, **common_data}, wall=ended.wall)
            writer.close()
            unconfirmed.append(Unconfirmed(writer.folder.page, writer.next_seq, spool, ensure))
        except (OSError, LinesideError) as error:
            print_once(f"how {run} ended cannot be recorded: {error}")
    return unconfirmed


def _outlived(ended: CommandExit, run: str, attempt: str, alive: set[int], spool: Path) -> bool:
    """Whether the training went on after the command: its rank 0 or, where that is on another
    machine, any rank."""
    ranks = [stream for stream in ended.pages if (stream.run, stream.attempt) == (run, attempt)]
    candidates = [stream for stream in ranks if stream.producer == _RANK_0] or ranks
    return any(_ran_on(ended, stream, alive, spool) for stream in candidates)


def _ran_on(ended: CommandExit, stream: Stream, alive: set[int], spool: Path) -> bool:
    """Whether its process did. One that was killed beside the command says nothing more, and is
    there until its memory is freed."""
    before = ended.pages[stream]
    if before is None:
        return False
    fields = status_reader.read_page(spool.joinpath(*stream))
    # The folder of a stream that was closed may have been removed since.
    has_closed = not before.closed and (fields is None or fields.closed)
    last_hook_at = fields.hook_monotonic_ns / 1e9 if fields else 0.0
    return before.pid in alive or has_closed or last_hook_at > ended.monotonic + _GRACE_SECONDS


def _has_ended(folder: Path, fields: StatusFields | None) -> bool:
    """Whether the training that wrote in ``folder`` said so, or is long gone."""
    try:
        return not folder.exists() or status_reader.has_ended(folder, fields)
    except OSError:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"


def wait_confirmed(unconfirmed: Sequence[Unconfirmed], ended: CommandExit) -> None:
    """Wait a moment until the bus has it, for this may be all that keeps a container alive."""
    unconfirmed[0].ensure_shipper()
    # Where nothing of the run itself was confirmed there is no broker to wait for.
    if not any(
        directory.acked_seq(unconfirmed[0].spool.joinpath(*stream)) for stream in ended.pages
    ):
        return
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while time.monotonic() < deadline:
        if all(one.is_confirmed for one in unconfirmed):
            return
        time.sleep(0.01)
