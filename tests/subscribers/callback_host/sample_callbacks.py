"""Callbacks that the host's processes load from this file; they import nothing of Lineside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class Appender(TrainerCallback):
    """Appends a line to ``file`` for each hook: process id, hook, step and loss."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def write(self, *words: object) -> None:
        with self.file.open("a") as file:
            file.write(" ".join(map(str, (os.getpid(), *words))) + "\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write("begin", state.global_step, len(state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.write("log", state.global_step, logs.get("loss"))

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write("evaluate", state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write("end", state.global_step)
