"""``lineside run -- CMD``: runs a command with the callback in its Trainers, and outlives it.

``inject/sitecustomize.py`` adds the callback. Python imports that file at its start, unless it runs
with ``-S``, ``-E`` or ``-I``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.emitter.launch import exit_event, oom_kills, orphans
from lineside.emitter.launch.exit_event import CommandExit
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.sidecar_process import INJECT_FOLDER
from lineside.emitter.training import launch_registry
from lineside.emitter.training.console import print_once

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # the exit codes of shells
_FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_WAITED = _FORWARDED | {signal.SIGCHLD}


def launch(
    argv: Sequence[str], settings: Settings, callbacks: Sequence[Mapping[str, Any]] = ()
) -> int:
    """Run ``argv`` to its end; its exit code, or 128 + n if signal n ended it.

    Its Trainers get ``callbacks``, entries of the configuration, as well.

    The command shares this process's terminal and process group, so a Ctrl-C reaches it from the
    terminal, once. A signal to this process alone is forwarded. Trainings that outlive the command
    are waited for, see ``wait_for_orphans``. ``process_exit`` is published for the last run that
    the command opened, and for earlier ones that have not ended.

    Raises:
        UsageError: ``argv`` is empty.
    """
    if not argv:
        raise UsageError("nothing to run: expected a command after `lineside run --`")
    unconfirmed: list[Unconfirmed] = []
    with _signals_blocked() as restore_signals, _launch_folder() as folder:
        env = _environment(settings, folder, callbacks)
        began, kill_count = time.monotonic(), oom_kills.kill_count()
        try:
            child = subprocess.Popen(argv, env=env, preexec_fn=restore_signals)
        except OSError as error:
            return _start_failure(argv[0], error)
        got_sigterm = _wait(child)
        command_exit = CommandExit(
            argv=argv,
            status=child.returncode,
            seconds=time.monotonic() - began,
            ended_at=time.time(),
            kill_count=None if kill_count is None else (oom_kills.kill_count() or 0) - kill_count,
            pids=exit_event.opened_streams(folder, settings.spool) if folder else {},
        )
        outlived: set[int] = set()
        if folder is not None:
            outlived = orphans.wait_for_orphans(
                folder, settings.spool, _WAITED, got_sigterm=got_sigterm
            )
        if not settings.disabled:
            unconfirmed = exit_event.record(command_exit, outlived, settings)
    if unconfirmed:
        with contextlib.suppress(KeyboardInterrupt):
            exit_event.wait_confirmed(unconfirmed, command_exit)
    return command_exit.status if command_exit.status >= 0 else 128 - command_exit.status


@contextlib.contextmanager
def _signals_blocked() -> Iterator[Callable[[], None]]:
    """Block signals, which are then waited for; yields a function that unblocks them in a child.

    Signals that nothing waited for are discarded at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    # Where SIGCHLD is ignored, the kernel does not keep how a child ended.
    on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def restore_signals() -> None:
        signal.signal(signal.SIGCHLD, on_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield restore_signals
    finally:
        while signal.sigtimedwait(_WAITED, 0) is not None:
            pass
        restore_signals()


def _wait(child: subprocess.Popen[bytes]) -> bool:
    """Forward signals until ``child`` has ended; whether a SIGTERM was among them."""
    got_sigterm = False
    while child.poll() is None:
        received = orphans.wait_for_signal(_WAITED, 1.0)
        if received is not None:
            orphans.forward_signal(received, [child.pid])
            got_sigterm = got_sigterm or received.si_signo == signal.SIGTERM
    return got_sigterm


@contextlib.contextmanager
def _launch_folder() -> Iterator[Path | None]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="lineside-run-"))
    except OSError as error:
        print_once(f"how the command ends will not be recorded: {error}")
        yield None
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(
    settings: Settings, folder: Path | None, callbacks: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """The command's environment; ``shipper_environment`` undoes it for a shipper."""
    env = dict(os.environ)
    if settings.disabled:
        return env
    given = {
        "LINESIDE_HOME": str(settings.home),
        "LINESIDE_BROKER": settings.broker,
        "LINESIDE_SPOOL": str(settings.spool),
        "LINESIDE_RUN_ID": settings.run_id,
        "LINESIDE_RUN_NAME": settings.run_name,
        "LINESIDE_PROJECT": settings.project,
        launch_registry.FOLDER_VARIABLE: str(folder) if folder else None,
        "LINESIDE_TAKE_OVER": "1" if settings.take_over else None,
        "LINESIDE_CALLBACKS": json.dumps(callbacks) if callbacks else None,
    }
    env.update({name: value for name, value in given.items() if value is not None})
    if settings.stop_on_sigterm is None:
        env["LINESIDE_STOP_ON_SIGTERM"] = "1"
    if settings.sampler is None:
        env["LINESIDE_SAMPLER"] = "1"
    # An empty entry would mean the working directory.
    entries = [str(INJECT_FOLDER), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry)
    return env


def _start_failure(command: str, error: OSError) -> int:
    if isinstance(error, FileNotFoundError) and shutil.which(command) is None:
        print_once(f"{command}: command not found")
        return NOT_FOUND
    print_once(f"{command} cannot be run: {error.strerror}")
    return NOT_EXECUTABLE
