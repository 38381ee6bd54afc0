"""Callbacks that the host's processes load from this file; they import nothing of Lineside."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


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


class Raiser(TrainerCallback):
    """Raises at every log."""

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        raise ValueError(f"no value at step {state.global_step}")


class Leaker(TrainerCallback):
    """Raises an error with the key of its server in it."""

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        raise ConnectionError(f"401 of https://ada:pw@host/?key={self.api_key}")


class Exiter(Appender):
    """Calls ``sys.exit`` at each log, or ends its process at the first one of step 2."""

    def __init__(self, file: str, at_once: bool = False) -> None:
        super().__init__(file)
        self.at_once = at_once

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        is_first = f" log {state.global_step} " not in self.file.read_text()
        super().on_log(args, state, control, logs)
        if not self.at_once:
            sys.exit(0)
        if is_first and state.global_step == 2:
            os._exit(0)


class Forker(Appender):
    """Forks a process at the first log that outlives this one, and writes its id."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.global_step == 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python 3.12 warns of the other threads
                child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            self.write("fork", child)
        super().on_log(args, state, control, logs)


class Switch(TrainerCallback):
    """Sets ``flags`` at each log, and ``value`` to clear one."""

    def __init__(self, flags: list[str], value: bool = True) -> None:
        self.flags = flags
        self.value = value

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        for flag in self.flags:
            setattr(control, flag, self.value)
        return control


class Counter(Appender, ExportableState):
    """Counts logs, and writes the count; a checkpoint keeps it."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.count = 0

    def state(self) -> dict[str, Any]:
        return {"args": {"file": str(self.file)}, "attributes": {"count": self.count}}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.count += 1
        self.write("log", state.global_step, self.count)


class Slow(Appender):
    """Takes a fifth of a second for each log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        super().on_log(args, state, control, logs)
        time.sleep(0.2)


class Sleeper(Appender):
    """Does not return from its first log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.write("log", state.global_step)
        time.sleep(3600)


class Unkept(Counter):
    """Its state is no JSON."""

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"count": {self.count}}}
