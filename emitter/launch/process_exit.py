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
from lineside.emitter.spool import vitals, yard
from lineside.emitter.spool.sidecar import Sidecar
from lineside.emitter.spool.spool import SpoolWriter
from lineside.emitter.spool.vitals import Words
from lineside.emitter.training.exit import Unconfirmed
from lineside.emitter.training.notice import say
from lineside.emitter.training.redaction import redact_argv

PRODUCER = "launcher"
_RANK_0 = "rank0"
_CONFIRM_SECONDS = 3.0
_BESIDE_SECONDS = 1.0


class Ended(NamedTuple):
    """How a command ended: ``status``, minus n if signal n did it.

    ``began`` and ``monotonic`` are seconds of the pages' clock, ``wall`` since the epoch; ``kills``
    says how often the kernel killed for want of memory meanwhile, None where that is not known;
    ``left`` has the streams opened by then, each with its page if its process was left behind.
    """

    argv: Sequence[str]
    status: int
    began: float
    monotonic: float
    wall: float
    kills: int | None
    left: dict[Stream, Words | None]

    def facts(self) -> dict[str, Any]:
        """What is said of every run."""
        return {
            "exit_code": self.status if self.status >= 0 else None,
            "signal": _signal_name(-self.status) if self.status < 0 else None,
            "out_of_memory": None if self.kills is None else self.kills > 0,
            "argv": redact_argv(self.argv),
            "seconds": self.monotonic - self.began,
        }


def record(ended: Ended, alive: set[int], settings: Settings) -> list[Unconfirmed]:
    """Tell of the command's runs how it ended; what of that the bus may not have confirmed yet.

    ``alive`` are the training processes that live, by their own ids.
    """
    if not ended.left:
        trained = "the command trained nothing until it ended"
        say(f"no run was recorded: {trained}, or its Python has no lineside")
        return []
    *_, last = ended.left
    facts, told, spool = ended.facts(), [], settings.spool
    ensure = Sidecar(spool, settings.broker).ensure
    for run, attempt in {stream.run: stream.attempt for stream in ended.left}.items():
        folder = spool / run / _RANK_0 / attempt
        words = vitals.read_page(folder)
        if run != last.run and _has_ended(folder, words):
            continue  # the command went on after it: how that ended says nothing of it
        more = {
            "attempt": attempt,
            "emitted": words.next_seq if words else None,
            "outlived": _outlived(ended, run, attempt, alive, spool),
        }
        try:
            own = Stream(run, PRODUCER, new_attempt())
            writer = SpoolWriter(spool, own, role="launcher")
            writer.write("process_exit", data={**more, **facts}, wall=ended.wall)
            writer.close()
            told.append(Unconfirmed(writer.folder.page, writer.next_seq, spool, ensure))
        except (OSError, LinesideError) as error:
            say(f"how {run} ended cannot be recorded: {error}")
    return told


def _outlived(ended: Ended, run: str, attempt: str, alive: set[int], spool: Path) -> bool:
    """Whether the training went on after the command: its rank 0 or, where that is on another
    machine, any rank."""
    ranks = [stream for stream in ended.left if (stream.run, stream.attempt) == (run, attempt)]
    judged = [stream for stream in ranks if stream.producer == _RANK_0] or ranks
    return any(_went_on(ended, stream, alive, spool) for stream in judged)


def _went_on(ended: Ended, stream: Stream, alive: set[int], spool: Path) -> bool:
    """Whether its process did. One that was killed beside the command says nothing more, and is
    there until its memory is freed."""
    was = ended.left[stream]
    if was is None:
        return False
    words = vitals.read_page(spool.joinpath(*stream))
    # The folder of a stream that was closed may have been removed since.
    has_closed = not was.closed and (words is None or words.closed)
    moved_at = words.hook_monotonic_ns / 1e9 if words else 0.0
    return was.pid in alive or has_closed or moved_at > ended.monotonic + _BESIDE_SECONDS


def _has_ended(folder: Path, words: Words | None) -> bool:
    """Whether the training that wrote in ``folder`` said so, or is long gone."""
    try:
        return not folder.exists() or vitals.ended(folder, words)
    except OSError:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"


def confirm(told: Sequence[Unconfirmed], ended: Ended) -> None:
    """Wait a moment until the bus has it, for this may be all that keeps a container alive."""
    told[0].ensure_shipper()
    # Where nothing of the run itself was confirmed there is no broker to wait for.
    if not any(yard.position(told[0].spool.joinpath(*stream)) for stream in ended.left):
        return
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while time.monotonic() < deadline:
        if all(one.is_confirmed for one in told):
            return
        time.sleep(0.01)
