"""Runs of plain loops, in this process and in new interpreters."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from lineside.emitter import Run
from lineside.emitter.training.publisher import Publisher
from tests.emitter.spool.spools import PageOnDisk
from tests.support.waiting import DEADLINE


def publisher_of(run: Run) -> Publisher:
    assert run.publisher is not None
    return run.publisher


def page_of(run: Run) -> PageOnDisk:
    return PageOnDisk(publisher_of(run)._spool.folder.path)


def script(
    home: Path, body: str, *, wait_at_exit: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``body`` in a new interpreter; its exit waits only with ``wait_at_exit``."""
    path = home / "script.py"
    head = (
        "from lineside.emitter import start_run\nfrom lineside.emitter.training import shutdown\n"
    )
    if not wait_at_exit:
        head += "shutdown._state.budget = 0.0\n"
    path.write_text(head + textwrap.dedent(body))
    return subprocess.run(
        [sys.executable, str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
