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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_WAITED = _FORWARDED | {signal.SIGCHLD}
_CONFIRM_SECONDS = 3.0
_BESIDE_SECONDS = 1.0


class _Ended(NamedTuple):
    """How the command ended: ``status``, minus n if signal n did it; when, in seconds since the
    epoch and of the pages' clock; and the streams opened by then, with the pages of those ``left``.
    """

    status: int
    wall: float
    monotonic: float
    left: dict[Stream, Words | None]


def launch(argv: Sequence[str], settings: Settings) -> int:
    """Run ``argv`` to its end; its exit code, or 128 + n if signal n ended it.

    The command shares this process's terminal and process group, so a Ctrl-C reaches it from the
    terminal, once; a signal sent to this process alone is passed on, and the command waited for.
    Trainings that outlive a command which got a SIGTERM get one too, and are waited for; others are
    for ten seconds.
    How it ended is published for the last run that it opened, and for those before that had not
    ended by then.

    Raises:
        UsageError: ``argv`` is empty.
    """
    if not argv:
        raise UsageError("nothing to run: expected a command after `lineside run --`")
    started, kills = time.monotonic(), memory.kills()
    writers: list[SpoolWriter] = []
    with _signals_held() as put_back, _launch_folder() as folder:
        try:
            ended = _run(argv, settings, folder, put_back)
        except OSError as error:
            return _refusal(argv[0], error)
        status = ended.status
        if not settings.disabled:
            rose = kills is not None and (memory.kills() or 0) > kills
            data = {
                "exit_code": status if status >= 0 else None,
                "signal": _signal_name(-status) if status < 0 else None,
                "out_of_memory": rose if kills is not None else None,
                "argv": redact_argv(argv),
                "seconds": ended.monotonic - started,
            }
            alive = set(orphans.living(folder, settings.spool)) if folder else set()
            writers = _record(ended, alive, data, settings)
    if writers:
        with contextlib.suppress(KeyboardInterrupt):
            _confirm(writers, ended.left, settings)
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _signals_held() -> Iterator[Callable[[], None]]:
    """Keep signals until they are waited for; what is yielded makes a child hear them again.

    What comes too late to be waited for is not meant for what follows.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    # Where it is ignored, the kernel keeps no word of how a child ended.
    on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def put_back() -> None:
        signal.signal(signal.SIGCHLD, on_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield put_back
    finally:
        while signal.sigtimedwait(_WAITED, 0) is not None:
            pass
        put_back()


def _run(
    argv: Sequence[str], settings: Settings, folder: Path | None, put_back: Callable[[], None]
) -> _Ended:
    child = subprocess.Popen(argv, env=_environment(settings, folder), preexec_fn=put_back)
    is_told = False
    while child.poll() is None:
        received = orphans.heard(_WAITED, 1.0)
        if received is not None:
            orphans.pass_on(received, [child.pid])
            is_told = is_told or received.si_signo == signal.SIGTERM
    wall, monotonic = time.time(), time.monotonic()
    left = orphans.pages(folder, settings.spool) if folder else {}
    if folder is not None:
        orphans.end(folder, settings.spool, _WAITED, is_told=is_told)
    return _Ended(child.returncode, wall, monotonic, left)


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
    ended: _Ended, alive: set[int], data: dict[str, Any], settings: Settings
) -> list[SpoolWriter]:
    """Tell of the command's runs how it ended, and which of the processes left are still ``alive``;
    the streams in which that is told."""
    if not ended.left:
        say("no run was recorded: the command trained nothing, or its Python has no lineside")
        return []
    *_, last = ended.left
    writers = []
    for run, attempt in {stream.run: stream.attempt for stream in ended.left}.items():
        stream = Stream(run, RANK_0, attempt)
        folder = settings.spool.joinpath(*stream)
        words = vitals.read_page(folder)
        if run != last.run and _has_ended(folder, words):
            continue  # the command went on after it: how that ended says nothing of it
        more = {
            "attempt": attempt,
            "emitted": words.next_seq if words else None,
            "outlived": _outlived(ended, stream, words, alive),
        }
        try:
            own = Stream(run, PRODUCER, new_attempt())
            writer = SpoolWriter(settings.spool, own, role="launcher")
            writer.write("process_exit", data={**more, **data}, wall=ended.wall)
            writer.close()
            writers.append(writer)
        except (OSError, LinesideError) as error:
            say(f"how {run} ended cannot be recorded: {error}")
    return writers


def _outlived(ended: _Ended, stream: Stream, words: Words | None, alive: set[int]) -> bool:
    """Whether the process of ``stream`` went on after the command, as its page says now.

    One that was killed beside it says nothing more, and is there until its memory is freed.
    """
    was = ended.left.get(stream)
    if was is None:
        return False
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


def _confirm(writers: Sequence[SpoolWriter], streams: Iterable[Stream], settings: Settings) -> None:
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
