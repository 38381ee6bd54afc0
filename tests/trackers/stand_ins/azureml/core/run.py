"""Writes each call of the job's run to AZUREML_CALLS."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from typing import Any


class Run:
    """The run of the job that AZUREML_RUN_ID names."""

    def __init__(self) -> None:
        self._client = self
        self._waiting: list[dict[str, Any]] = []

    @classmethod
    def get_context(cls) -> Run:
        """The run of this process's job."""
        run = cls()
        atexit.register(run.flush)
        return run

    def log(self, name: str, value: float, description: str = "") -> None:
        """Add a value, to be sent with the next flush."""
        run_id = os.environ["AZUREML_RUN_ID"]
        self._waiting.append({"call": "log", "id": run_id, "path": name, "value": value})

    def flush(self) -> None:
        """Send all values."""
        with Path(os.environ["AZUREML_CALLS"]).open("a", encoding="utf-8") as file:
            for call in self._waiting:
                file.write(json.dumps(call) + "\n")
        self._waiting.clear()
