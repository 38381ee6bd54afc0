"""Publishes a plain training loop that calls callbacks, without a Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lineside.emitter.training.run import Run, start_run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lineside.emitter.training.identity import LabelOptions


class LoopCallback:
    """One of the callbacks of a plain trainer; it publishes what the trainer reports.

    The trainer calls the five methods below. The arguments are those of ``start_run``. ``run`` is
    the open run: a script may publish more with it, which does nothing before training begins. No
    method raises, and only ``on_train_end`` waits: at most 3 s.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        project: str | None = None,
        run_id: str | None = None,
        **labels: Unpack[LabelOptions],
    ) -> None:
        self._name, self._project, self._run_id = name, project, run_id
        self._labels = labels
        self._epoch: float | None = None
        self.run = Run()

    def on_train_begin(self) -> None:
        """Open a run; a second training of this object is another attempt of the same run."""
        self.run.finish()
        run_id = self._run_id or self.run.id or None
        self.run = start_run(self._name, project=self._project, run_id=run_id, **self._labels)
        self._epoch = None
        self.run.event("train_begin", step=0)

    def on_epoch_begin(self, epoch: float) -> None:
        """Publish that ``epoch`` begins."""
        self._epoch = epoch_number(epoch)
        self.run.event("epoch_begin", epoch=self._epoch)

    def on_step_end(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Publish the end of ``step``, and ``metrics`` if it has any."""
        if metrics:
            self.run.log(metrics, step=step, epoch=self._epoch)
        self.run.event("step_end", step=step, epoch=self._epoch)

    def on_epoch_end(self, epoch: float, metrics: Mapping[str, Any] | None = None) -> None:
        """Publish that ``epoch`` ends, and its ``metrics`` at the newest step."""
        number = epoch_number(epoch)
        end = None if number is None else number + 1
        self.run.event("epoch_end", epoch=end)
        if metrics:
            self.run.log(metrics, epoch=end)

    def on_train_end(self) -> None:
        """Publish the end, and wait until the bus has all events."""
        self.run.event("train_end", epoch=self._epoch)
        self.run.finish()


def epoch_number(epoch: Any) -> float | None:
    """``epoch`` as a trainer gives it; None if it is no number."""
    try:
        return float(epoch)
    except (TypeError, ValueError, OverflowError):
        return None
