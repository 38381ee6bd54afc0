"""How a module of Lineside starts as a process that imports nothing from the user's folder.

``python -m`` puts the working directory first on the module path: a file there that is named like
a module of the standard library would run in its place. Python before 3.11 has no option against
that, so these processes work in the root folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

WORKING_FOLDER = "/"
"""The working directory of a process that runs a module of Lineside."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs ``module`` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def module_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with the entries of PYTHONPATH absolute; an empty one, this folder, is left
    out."""
    changed = dict(environment)
    entries = [entry for entry in changed.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    if entries:
        changed["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries)
    return changed


def detach(has_started: Callable[[], bool]) -> None:
    """Go on in a child of a new session; this process ends once ``has_started``, or the child has
    ended."""
    try:
        child = os.fork()
    except OSError:
        return
    if not child:
        os.setsid()
        return
    with contextlib.suppress(OSError):
        while os.waitpid(child, os.WNOHANG) == (0, 0) and not has_started():
            time.sleep(0.02)
    os._exit(0)
