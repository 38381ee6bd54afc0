"""CodeCarbon: it measures the machine of the callback host."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.tracker import HookCall, RunEnd, Tracker


class CodeCarbon(Tracker):
    """CodeCarbon. Its callback reads ``torch.version``, so it cannot do without torch."""

    name: ClassVar[str] = "codecarbon"
    packages: ClassVar[tuple[str, ...]] = ("codecarbon",)
    needs_torch: ClassVar[bool] = True

    def before(self, call: HookCall) -> bool:
        if not Path(call.args.output_dir).is_dir():  # the training runs on another machine
            call.args = copy.copy(call.args)
            object.__setattr__(call.args, "output_dir", str(self.run.folder))
        return True

    def suspend(self, callback: Any) -> None:
        """Write what this process has measured: the next one begins at zero."""
        self._stop(callback)

    def close(self, callback: Any, end: RunEnd) -> None:
        self._stop(callback)

    def _stop(self, callback: Any) -> None:
        """Write the file of a training that had no ``train_end``; else it is there already."""
        tracker = callback.tracker
        if tracker is not None and getattr(tracker, "_start_time", None) is not None:
            tracker.stop()
