"""Trainings that outlive the command which had started them, when that was told to end.

A launcher of the script's own, or a shell, often ends at once and leaves the training behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from lineside.emitter import launches, locks, vitals
from lineside.emitter.folder import LOCK_NAME

_ASK_SECONDS = 0.1
_SI_KERNEL = 0x80  # si_code of what a terminal sends


def to_pass_on(signals: Iterable[int], seconds: float) -> int | None:
    """Wait so long for one of ``signals``, which are blocked; it, if it is to be passed on.

    That a child ended is for this process alone, and the terminal tells all its processes itself.
    """
    received = signal.sigtimedwait(signals, seconds)
    if received is None or received.si_code == _SI_KERNEL or received.si_signo == signal.SIGCHLD:
        return None
    return received.si_signo


def end(folder: Path, spool: Path, signals: Iterable[int]) -> None:
    """Tell them to end too, with a SIGTERM, and wait until they have.

    They are the processes of this machine whose streams are registered in ``folder``. What the
    command told itself is not told again, for a second SIGTERM may end it in the middle of a save.
    ``signals``, which are blocked, are passed on to them meanwhile.
    """
    told: set[int] = set()
    while living := _living(folder, spool):
        for pid in living.keys() - told:
            if not living[pid]:
                _send(pid, signal.SIGTERM)
        told |= living.keys()
        number = to_pass_on(signals, _ASK_SECONDS)
        if number is not None:
            for pid in living:
                _send(pid, number)


def _living(folder: Path, spool: Path) -> dict[int, bool]:
    """Their process ids, each with whether it was asked to stop."""
    found: dict[int, bool] = {}
    for stream in launches.read(folder):
        with contextlib.suppress(OSError):
            path = spool.joinpath(*stream)
            pid = locks.holder(path / LOCK_NAME) or 0
            if pid > 0:  # else none holds it, or one of another machine
                words = vitals.read_page(path)
                found[pid] = found.get(pid, False) or (words is not None and words.stop_asked)
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)
