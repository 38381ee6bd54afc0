"""``lineside run -- CMD``: runs a command with the callback in its Trainers, and outlives it.

The callback comes in through ``inject/sitecustomize.py``, which Python imports at its start unless
it was told not to with ``-S``, ``-E`` or ``-I``; nothing can be done for those.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.errors import LinesideError, UsageError
from lineside.bus.events import Stream, new_attempt
from lineside.bus.settings import Settings
from lineside.emitter import launches, memory, orphans, vitals, yard
from lineside.emitter.notice import say
from lineside.emitter.page import ACKED_SEQ
from lineside.emitter.redaction import redact_argv
from lineside.emitter.sidecar import INJECT_FOLDER, Sidecar
from lineside.emitter.spool import SpoolWriter
from lineside.emitter.vitals import Words

PRODUCER = "launcher"
RANK_0 = "rank0"
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # what shells end with
_FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_CONFIRM_SECONDS = 3.0
_BESIDE_SECONDS = 1.0


class _Ended(NamedTuple):
    """How the command ended and when: ``status``, minus n if signal n ended it, seconds since the
    epoch, and seconds of the clock of the page; and the training processes that it ``left``, by
    their own ids."""

    status: int
    wall: float
    monotonic: float
    left: set[int]


def launch(argv: Sequence[str], settings: Settings) -> int:
    """Run ``argv`` to its end; its exit code, or 128 + n if signal n ended it.

    The command shares this process's terminal and process group, so a Ctrl-C reaches it from the
    terminal, once; a signal sent to this process alone is passed on, and the command waited for.
    Trainings that outlive a command which got a SIGTERM get one too, and are waited for.
    How it ended is published for the last run that it opened, and for those before that had not
    ended by then.

    Raises:
        UsageError: ``argv`` is empty.
    """
    if not argv:
        raise UsageError("nothing to run: expected a command after `lineside run --`")
    started, kills = time.monotonic(), memory.kills()
    with _launch_folder() as folder:
        try:
            ended = _run(argv, settings, folder)
        except OSError as error:
            return _refusal(argv[0], error)
        runs = launches.read(folder) if folder else []
        alive = _living(folder, settings)
    status = ended.status
    if not settings.disabled:
        with contextlib.suppress(KeyboardInterrupt):
            rose = kills is not None and (memory.kills() or 0) > kills
            data = {
                "exit_code": status if status >= 0 else None,
                "signal": _signal_name(-status) if status < 0 else None,
                "out_of_memory": rose if kills is not None else None,
                "argv": redact_argv(argv),
                "seconds": ended.monotonic - started,
            }
            _record(runs, data, ended, alive, settings)
    return status if status >= 0 else 128 - status


def _run(argv: Sequence[str], settings: Settings, folder: Path | None) -> _Ended:
    env = _environment(settings, folder)
    waited = _FORWARDED | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    # Where it is ignored, the kernel keeps no word of how a child ended.
    on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def put_back() -> None:
        signal.signal(signal.SIGCHLD, on_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        child = subprocess.Popen(argv, env=env, preexec_fn=put_back)
        is_told = False
        while child.poll() is None:
            received = orphans.heard(waited, 1.0)
            if received is not None:
                orphans.pass_on(received, [child.pid])
                is_told = is_told or received.si_signo == signal.SIGTERM
        now, monotonic, left = time.time(), time.monotonic(), _living(folder, settings)
        if folder is not None:
            orphans.end(folder, settings.spool, waited, is_told=is_told)
        while signal.sigtimedwait(waited, 0) is not None:
            pass  # what came too late for the child is not meant for what follows
        return _Ended(child.returncode, now, monotonic, left)
    finally:
        put_back()


def _living(folder: Path | None, settings: Settings) -> set[int]:
    """The trainings' processes, by their own ids."""
    return set(orphans.living(folder, settings.spool)) if folder else set()


@contextlib.contextmanager
def _launch_folder() -> Iterator[Path | None]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="lineside-run-"))
    except OSError as error:
        say(f"how the command ends will not be recorded: {error}")
        yield None
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(settings: Settings, folder: Path | None) -> dict[str, str]:
    env = dict(os.environ)
    if settings.disabled:
        return env
    given = {
        "LINESIDE_HOME": str(settings.home),
        "LINESIDE_BROKER": settings.broker,
        "LINESIDE_SPOOL": str(settings.spool),
        "LINESIDE_RUN_NAME": settings.run_name,
        "LINESIDE_PROJECT": settings.project,
        launches.VARIABLE: str(folder) if folder else None,
    }
    env.update({name: value for name, value in given.items() if value is not None})
    if settings.stop_on_sigterm is None:
        env["LINESIDE_STOP_ON_SIGTERM"] = "1"
    # An empty entry would mean the working directory.
    entries = [str(INJECT_FOLDER), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry)
    return env


def _refusal(command: str, error: OSError) -> int:
    if isinstance(error, FileNotFoundError) and shutil.which(command) is None:
        say(f"{command}: command not found")
        return NOT_FOUND
    say(f"{command} cannot be run: {error.strerror}")
    return NOT_EXECUTABLE


def _record(
    streams: Sequence[Stream],
    data: dict[str, Any],
    ended: _Ended,
    alive: set[int],
    settings: Settings,
) -> None:
    """Tell of the streams' runs how the command ended, after which these are ``alive``."""
    if not streams:
        say("no run was recorded: the command trained nothing, or its Python has no lineside")
        return
    newest = {stream.run: stream.attempt for stream in streams}
    writers = []
    for run, attempt in newest.items():
        folder = settings.spool / run / RANK_0 / attempt
        words = vitals.read_page(folder)
        if run != streams[-1].run and _has_ended(folder, words):
            continue  # the command went on after it: how that ended says nothing of it
        emitted = words.next_seq if words else None
        try:
            own = Stream(run, PRODUCER, new_attempt())
            writer = SpoolWriter(settings.spool, own, role="launcher")
            outlived = words is not None and _outlived(words, ended, alive)
            more = {"attempt": attempt, "emitted": emitted, "outlived": outlived, **data}
            writer.write("process_exit", data=more, wall=ended.wall)
            writer.close()
            writers.append(writer)
        except (OSError, LinesideError) as error:
            say(f"how {run} ended cannot be recorded: {error}")
    _confirm(writers, streams, settings)


def _outlived(words: Words, ended: _Ended, alive: set[int]) -> bool:
    """Whether the process went on after the command; who went at once without a word did not."""
    if words.pid not in ended.left:
        return False
    moved_on = words.hook_monotonic_ns > (ended.monotonic + _BESIDE_SECONDS) * 1e9
    return words.closed or words.pid in alive or moved_on


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


def _confirm(writers: Sequence[SpoolWriter], streams: Sequence[Stream], settings: Settings) -> None:
    """Wait a moment until the bus has it, for this may be all that keeps a container alive."""
    sidecar = Sidecar(settings.spool, settings.broker)
    sidecar.ensure()
    # Where nothing of the run itself was confirmed there is no broker to wait for.
    if not any(yard.position(settings.spool.joinpath(*stream)) for stream in streams):
        return
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while time.monotonic() < deadline:
        for writer in writers:
            writer.tend()
        if all(writer.words[ACKED_SEQ] >= writer.next_seq for writer in writers):
            return
        time.sleep(0.01)
