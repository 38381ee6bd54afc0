"""Checks entries of ``custom_callbacks`` before they are needed, each in a process of its own.

``python -m lineside.bus.callbacks.callback_check`` reads one entry as JSON, imports its class with
the entry's interpreter and environment, and writes the fault that it finds, as JSON. It makes no
callback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from lineside.bus.callback_config import (
    STOCK_CALLBACKS,
    CallbackEntry,
    check_callback,
    entry_environment,
    parse_entry,
)
from lineside.bus.errors import CallbackConfigError
from lineside.bus.module_process import WORKING_FOLDER, module_environment

_FAULT = "lineside-fault "


def check_entries(entries: Sequence[CallbackEntry], seconds: float) -> list[CallbackConfigError]:
    """The faults of ``entries``. An import that takes longer than ``seconds`` has none.

    Those that need no check are left out.
    """
    faults: list[CallbackConfigError] = []
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        checks = []
        for entry in entries:
            if not needs_check(entry):
                continue
            try:
                checks.append(stack.enter_context(_Check(entry)))
            except CallbackConfigError as error:
                faults.append(error)
        faults += [fault for check in checks if (fault := check.fault(until)) is not None]
    return faults


def needs_check(entry: CallbackEntry) -> bool:
    """Whether ``entry`` can have a fault: not the short name of a tracker alone, whose import would
    take seconds."""
    return entry.name not in STOCK_CALLBACKS or bool(
        entry.args or entry.environment or entry.python
    )


class _Check:
    """The check of one entry in a process group of its own, which ends with the context."""

    def __init__(self, entry: CallbackEntry) -> None:
        self._entry = entry
        own = entry_environment(entry)
        # Files and no pipes: what the import has started may outlive it and hold a pipe.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the exit
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(entry.as_mapping()).encode())
            given.seek(0)
            try:
                self._process = subprocess.Popen(
                    [entry.python or sys.executable, "-m", __name__],
                    stdin=given,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    env=module_environment({**os.environ, **own}),
                    cwd=WORKING_FOLDER,
                    start_new_session=True,
                )
            except OSError as error:
                self._output.close()
                sentence = f"{entry.python!r} cannot be run: {error.strerror}; expected a python"
                raise entry.error(sentence, "python") from None

    def __enter__(self) -> _Check:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def fault(self, until: float) -> CallbackConfigError | None:
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        _, is_fault, text = output.rpartition(_FAULT)
        if is_fault:
            found: dict[str, Any] = json.loads(text)
            return self._entry.error(found["sentence"], *found["key"])
        if code and self._entry.python:
            last = output.strip().rpartition("\n")[2]
            return self._entry.error(
                f"{self._entry.python} cannot run callbacks: {last}; install lineside there",
                "python",
            )
        return None


def main() -> None:
    """Check the entry on stdin."""
    entry = parse_entry(json.load(sys.stdin))
    try:
        check_callback(entry)
    except CallbackConfigError as error:
        fault = json.dumps({"key": error.key, "sentence": error.sentence})
        sys.stdout.write(f"\n{_FAULT}{fault}")


if __name__ == "__main__":
    main()
