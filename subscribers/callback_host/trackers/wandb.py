"""Weights & Biases: each row with its own step and the event's time, in one W&B run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

from lineside.subscribers.callback_host.rebuild.live_objects import LiveObjectNeeded
from lineside.subscribers.callback_host.trackers.module_proxy import ModuleProxy
from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun, RunEnd, Tracker
from lineside.subscribers.callback_host.trackers.wandb_log import WandbLog

_SUMMARY_KEYS = (
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
    "total_flos",
)
"""What the callback writes into the summary, and not as a row."""
_WATCHED = ("all", "parameters", "gradients")
_STEP, _TIME = "_step", "_timestamp"


class Wandb(Tracker):
    """Keeps each row until it is in W&B's file, because wandb-core loses its buffer when it dies.

    The identity holds the number of rows that were logged and, as JSON texts, those that are not
    known to be in the file.
    """

    name: ClassVar[str] = "wandb"
    packages: ClassVar[tuple[str, ...]] = ("wandb",)

    def __init__(self, run: HostedRun) -> None:
        super().__init__(run)
        self.wandb: Any = None
        self.now = run.started_at
        self.step = 0  # of the next row
        self.rows: list[str] = []  # of this event
        self.log: WandbLog | None = None
        self.known: set[int] = set()  # steps in the files of earlier processes
        self.was_resent = False
        variables = run.facts.get("environment", {})
        self.watch = str(variables.get("WANDB_WATCH", ""))

    def environment(self) -> dict[str, str]:
        identity, facts = self.run.identity, self.run.facts
        given = facts.get("environment", {}).get("WANDB_RUN_ID")
        run_id = identity.setdefault("run_id", given or re.sub(r"[/\\#?%:]", "-", self.run.id))
        process = facts.get("process", {})
        values = {
            "WANDB_RUN_ID": run_id,
            "WANDB_RESUME": "allow",
            "WANDB_CONSOLE": "off",
            # Gradients and parameters are with the training; ``after`` reports that.
            "WANDB_WATCH": "false",
            # It would measure this process and its machine.
            "WANDB_X_DISABLE_STATS": "true",
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        }
        if process.get("argv"):
            values["WANDB_PROGRAM"] = process["argv"][0]
        if process.get("host"):
            values["WANDB_HOST"] = process["host"]
        return values

    def created(self, callback: Any) -> None:
        self.wandb = callback._wandb
        callback._wandb = ModuleProxy(self.wandb, log=self._log)

    def before(self, call: HookCall) -> bool:
        self.now = call.event.time
        self.step = self.run.identity.get("rows", 0)
        self.rows = []
        if self.wandb.run is not None and not self.was_resent:
            self._resend()
        return True

    def after(self, call: HookCall) -> None:
        identity = self.run.identity
        if self.wandb.run is None:
            return
        if not self.was_resent:
            self._resend()
        identity["rows"] = self.step
        identity["pending"] = [*identity.get("pending", ()), *self.rows]
        if call.hook == "on_log":
            logs = call.keywords.get("logs") or {}
            summary = {name: logs[name] for name in _SUMMARY_KEYS if name in logs}
            identity["summary"] = {**identity.get("summary", {}), **summary}
        self._drop_written()
        self._report_watch()

    def is_delivery_error(self, error: Exception) -> bool:
        errors = self.wandb.errors
        return isinstance(error, (errors.CommError, errors.AuthenticationError, OSError))

    def close(self, callback: Any, end: RunEnd) -> None:
        if self.wandb.run is not None:
            self.wandb.finish(exit_code=0 if end.status in ("finished", "stopped") else 1)

    def _log(self, data: dict[str, Any]) -> None:
        row = {**data, _TIME: self.now}
        self.rows.append(json.dumps({**row, _STEP: self.step}))
        if self.step not in self.known:
            self.wandb.log(row, step=self.step, commit=True)
        self.step += 1

    def _resend(self) -> None:
        """Log the rows of earlier processes that W&B does not have."""
        self.was_resent = True
        identity, run = self.run.identity, self.wandb.run
        files = [Path(file) for file in identity.get("files", ()) if Path(file).is_file()]
        logs = map(WandbLog, files)
        rows = {row[_STEP]: row for log in logs for row in log.rows() if _STEP in row}
        pending = {row[_STEP]: row for row in map(json.loads, identity.get("pending", ()))}
        if run.settings._offline:
            # Each process has a file of its own, and `wandb sync` takes them together.
            self.known = set(rows)
            lost = {step: row for step, row in pending.items() if step not in rows}
        else:
            lost = {step: row for step, row in {**rows, **pending}.items() if step >= run.step}
        for step in sorted(lost):
            row = {k: v for k, v in lost[step].items() if k not in (_STEP, "_runtime")}
            self.wandb.log(row, step=step, commit=True)
        for name, value in identity.get("summary", {}).items():
            run.summary[name] = value
        self.log = WandbLog(Path(run.settings.sync_file))
        identity["files"] = [*map(str, files), str(self.log.file)]

    def _drop_written(self) -> None:
        """Forget the rows that are in this process's file."""
        written = {row.get(_STEP) for row in self.log.rows()} if self.log else set()
        written |= self.known
        pending = self.run.identity["pending"]
        if written:
            self.run.identity["pending"] = [
                text for text in pending if json.loads(text)[_STEP] not in written
            ]

    def _report_watch(self) -> None:
        if self.watch in _WATCHED and not self.run.identity.get("watch_reported"):
            self.run.identity["watch_reported"] = True
            raise LiveObjectNeeded(f"the model that WANDB_WATCH={self.watch} logs")
