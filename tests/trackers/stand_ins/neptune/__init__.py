"""Stands in for Neptune's package, whose service is gone: writes each call to NEPTUNE_CALLS."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

__version__ = "1.14.0"


def _write(**call: Any) -> None:
    with Path(os.environ["NEPTUNE_CALLS"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(call, default=str) + "\n")


class _Field:
    def __init__(self, run: Run, path: str) -> None:
        self._run, self._path = run, path

    def __getitem__(self, name: str) -> _Field:
        return _Field(self._run, f"{self._path}/{name}")

    def __setitem__(self, name: str, value: Any) -> None:
        _write(call="assign", id=self._run.id, path=f"{self._path}/{name}", value=value)

    def log(self, value: Any, step: int | None = None) -> None:
        _write(call="log", id=self._run.id, path=self._path, value=value, step=step)

    def fetch(self) -> str:
        return self._run.id


class Run:
    """A run with the id ``with_id``, or a new one."""

    def __init__(self, with_id: str | None = None, **_: Any) -> None:
        self.id = with_id or uuid.uuid4().hex[:8]
        _write(call="init", id=self.id)

    def __getitem__(self, path: str) -> _Field:
        return _Field(self, path)

    def __setitem__(self, path: str, value: Any) -> None:
        _write(call="assign", id=self.id, path=path, value=value)

    def wait(self) -> None:
        """Wait until the server has all."""

    def stop(self) -> None:
        """End the run."""
        _write(call="stop", id=self.id)


def init_run(**given: Any) -> Run:
    """Make or continue a run."""
    return Run(**given)
