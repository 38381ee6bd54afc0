"""DVCLive: rows of files in ``dvclive/``, cut back to what was processed after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lineside.subscribers.callback_host.rebuild.live_objects import LiveObjectNeeded
from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun, RunEnd, Tracker


class DVCLive(Tracker):
    """Continues at the step that the identity has; a folder without identity is begun anew."""

    name: ClassVar[str] = "dvclive"
    packages: ClassVar[tuple[str, ...]] = ("dvclive",)

    def __init__(self, run: HostedRun) -> None:
        super().__init__(run)
        self.is_continued = "step" in run.identity
        self.has_ended = False

    def environment(self) -> dict[str, str]:
        values = {"DVCLIVE_RESUME": "true" if self.is_continued else "false"}
        if "experiment" in self.run.identity:
            values["DVC_EXP_NAME"] = self.run.identity["experiment"]
        return values

    def before(self, call: HookCall) -> bool:
        live, identity = call.callback.live, self.run.identity
        if live is None and self.is_continued:
            cut_rows(Path("dvclive/plots/metrics"), identity["step"])
        elif live is not None and live.step != identity.get("step", 0):
            # A try of the same event failed half way.
            cut_rows(Path(live.plots_dir) / "metrics", identity.get("step", 0))
            live.step = identity.get("step", 0)
        if call.hook == "on_train_end":
            self._end(call.callback)
            return False
        return True

    def after(self, call: HookCall) -> None:
        live = call.callback.live
        if live is None:
            return
        if self.is_continued:
            live.step = self.run.identity["step"]
            self.is_continued = False
        self.run.identity |= {"step": live.step, "experiment": live._exp_name}

    def is_delivery_error(self, error: Exception) -> bool:
        return isinstance(error, OSError)

    def close(self, callback: Any, end: RunEnd) -> None:
        self._end(callback)

    def _end(self, callback: Any) -> None:
        """End as the callback's ``on_train_end`` does, which imports the Trainer and torch."""
        if callback.live is None or self.has_ended:
            return
        callback.live.end()
        self.has_ended = True
        if callback._log_model is True:
            raise LiveObjectNeeded("the model that HF_DVCLIVE_LOG_MODEL saves")


def cut_rows(folder: Path, step: int) -> None:
    """Remove rows of ``step`` and later, and a row that was written in part."""
    for file in folder.rglob("*.tsv"):
        header, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if row.endswith("\n") and int(row.split("\t", 1)[0]) < step]
        if kept != rows:
            file.write_text("".join([header, *kept]), encoding="utf-8")
