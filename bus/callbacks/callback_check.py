"""Checks entries of ``custom_callbacks`` before they are needed, each in a process of its own.

``python -m lineside.bus.callbacks.callback_check`` reads one entry as JSON, imports its class with
the entry's interpreter and environment, and writes the fault that it finds, as JSON. It makes no
callback.
"""

from __future__ import annotations

import contextlib
import json
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
from lineside.bus.callbacks.check_process import CheckProcess
from lineside.bus.errors import CallbackConfigError

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
                checks.append((entry, stack.enter_context(_begin(entry))))
            except CallbackConfigError as error:
                faults.append(error)
        faults += [
            fault for entry, check in checks if (fault := _fault(entry, check, until)) is not None
        ]
    return faults


def needs_check(entry: CallbackEntry) -> bool:
    """Whether ``entry`` can have a fault: not the short name of a tracker alone, whose import would
    take seconds."""
    return entry.name not in STOCK_CALLBACKS or bool(
        entry.args or entry.environment or entry.python
    )


def _begin(entry: CallbackEntry) -> CheckProcess:
    own = entry_environment(entry)
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(entry.as_mapping()).encode())
        given.seek(0)
        argv = [entry.python or sys.executable, "-m", __name__]
        try:
            return CheckProcess(argv, own, given, keeps_stdout=True)
        except OSError as error:
            sentence = f"{entry.python!r} cannot be run: {error.strerror}; expected a python"
            raise entry.error(sentence, "python") from None


def _fault(entry: CallbackEntry, check: CheckProcess, until: float) -> CallbackConfigError | None:
    code, output = check.result(until) or (0, "")
    _, is_fault, text = output.rpartition(_FAULT)
    if is_fault:
        found: dict[str, Any] = json.loads(text)
        return entry.error(found["sentence"], *found["key"])
    if code and entry.python:
        last = output.strip().rpartition("\n")[2]
        return entry.error(
            f"{entry.python} cannot run callbacks: {last}; install lineside there", "python"
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
