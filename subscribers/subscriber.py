"""The public ``Subscriber``: what happens in a run, as one method for each kind of event."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar, TypeAlias

from lineside.subscribers.context import RunContext
from lineside.subscribers.events import (
    AlertEvent,
    AlertResponseEvent,
    CheckpointHeldEvent,
    CheckpointRequestEvent,
    CheckpointStateEvent,
    CommandEvent,
    EvaluateEvent,
    GapEvent,
    HeartbeatEvent,
    LogEvent,
    MetricsEvent,
    ProcessEvent,
    RunEndEvent,
    RunEvent,
    RunStartEvent,
    SaveEvent,
    SubscriberErrorEvent,
    TrainerEvent,
    TrainErrorEvent,
)

Result: TypeAlias = "Mapping[str, Any] | None"
HandlerResult: TypeAlias = "Result | Awaitable[Result]"
"""What a handler returns: nothing, or metrics to publish; or an awaitable of either."""

RETRY, SKIP, STOP = "retry", "skip", "stop"
ON_ERROR = (RETRY, SKIP, STOP)


class Subscriber:
    """Reacts to the events of one run: override the methods of the kinds that matter.

    ::

        class Slack(Subscriber):
            name = "slack"

            def __init__(self, url: str) -> None:
                self.url = url

            async def on_log(self, run: RunContext, event: LogEvent) -> None: ...

    ``lineside subscriber my_module:Slack -o url=https://...`` runs it: the kit makes one instance
    for each run, on the run's first event. Methods are plain or ``async``; the events of a run come
    one after another, in order, while other runs go on beside it. Plain methods run in a thread of
    their run, not always the same one; ``async`` methods of all runs share one event loop.

    Delivery is at least once: after a crash the events since the last commit come again. Changes of
    ``run.open_state()``, and all that was published, are kept exactly once.

    A method that returns a mapping publishes it as ``metrics`` of the producer ``name``, each key
    with ``log_key_prefix`` before it.
    """

    name: ClassVar[str] = "subscriber"
    """The broker keeps the cursor under this name; published events name it as producer."""
    on_error: ClassVar[str] = RETRY
    """What an exception causes: ``retry`` the event with back-off, ``skip`` it, or ``stop``."""
    log_key_prefix: ClassVar[str] = ""
    """What precedes the names of returned metrics."""
    frequency: ClassVar[float | Mapping[str, float]] = {}
    """``{"on_log": 0.1}`` calls ``on_log`` once in every 10 % of the run's ``max_steps``.

    A number stands for ``on_log``, ``on_evaluate`` and the methods of steps. A run without known
    ``max_steps`` is called for every event.
    """
    retry_seconds: ClassVar[tuple[float, float]] = (1.0, 60.0)
    """The first and the longest delay before an event is tried again; it doubles in between.

    A ``RetryLater`` has a delay of its own.
    """

    def on_event(self, run: RunContext, event: RunEvent) -> HandlerResult:
        """Any event whose own method is not overridden, custom kinds of ``start_run`` included."""

    def on_init_end(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """The Trainer was made; published when the run opens."""

    def on_train_begin(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """``train()`` begins; a second call is another attempt."""

    def on_train_end(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """``train()`` returned."""

    def on_epoch_begin(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """An epoch begins."""

    def on_epoch_end(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """An epoch ended."""

    def on_step_begin(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """A step begins, before its first batch."""

    def on_pre_optimizer_step(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """Gradients are clipped; the optimizer steps next."""

    def on_optimizer_step(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """The optimizer has stepped."""

    def on_substep_end(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """A batch of an accumulation ended, but for the last."""

    def on_step_end(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """A step ended; ``event.step`` counts it."""

    def on_log(self, run: RunContext, event: LogEvent) -> HandlerResult:
        """The Trainer logged ``event.logs``."""

    def on_prediction_step(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """A batch of an evaluation or prediction ended."""

    def on_evaluate(self, run: RunContext, event: EvaluateEvent) -> HandlerResult:
        """An evaluation ended with ``event.metrics``."""

    def on_predict(self, run: RunContext, event: EvaluateEvent) -> HandlerResult:
        """A prediction ended with ``event.metrics``."""

    def on_save(self, run: RunContext, event: SaveEvent) -> HandlerResult:
        """The checkpoint ``event.checkpoint`` was written."""

    def on_push_begin(self, run: RunContext, event: TrainerEvent) -> HandlerResult:
        """A push to the Hub begins."""

    def on_run_start(self, run: RunContext, event: RunStartEvent) -> HandlerResult:
        """A process began to publish; each rank does. ``event.facts`` describes it."""

    def on_model(self, run: RunContext, event: RunEvent) -> HandlerResult:
        """``event.data`` describes how the Trainer's model is built."""

    def on_run_end(self, run: RunContext, event: RunEndEvent) -> HandlerResult:
        """A process ended in an orderly way; each rank reports it."""

    def on_train_error(self, run: RunContext, event: TrainErrorEvent) -> HandlerResult:
        """``train()`` raised ``event.error``; each rank reports it."""

    def on_gap(self, run: RunContext, event: GapEvent) -> HandlerResult:
        """The training dropped events."""

    def on_heartbeat(self, run: RunContext, event: HeartbeatEvent) -> HandlerResult:
        """The shipper's account of one rank, once a second."""

    def on_process_lost(self, run: RunContext, event: ProcessEvent) -> HandlerResult:
        """A training process is gone without ``run_end``."""

    def on_process_exit(self, run: RunContext, event: ProcessEvent) -> HandlerResult:
        """The command of ``lineside run`` ended."""

    def on_command(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """A command was sent to the training."""

    def on_control_on(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """The training takes commands from here on."""

    def on_control_delivered(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """A command has reached the training."""

    def on_control_applied(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """The training applied a command."""

    def on_control_rejected(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """The training rejected a command."""

    def on_control_expired(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """A command expired before the training could apply it."""

    def on_control_superseded(self, run: RunContext, event: CommandEvent) -> HandlerResult:
        """A later command took the place of an earlier one."""

    def on_checkpoint_held(self, run: RunContext, event: CheckpointHeldEvent) -> HandlerResult:
        """Training linked a checkpoint for the archiver, or could not."""

    def on_checkpoint_state(self, run: RunContext, event: CheckpointStateEvent) -> HandlerResult:
        """The archiver brought a checkpoint into another state."""

    def on_checkpoint_progress(self, run: RunContext, event: CheckpointStateEvent) -> HandlerResult:
        """The archiver copies a checkpoint."""

    def on_checkpoint_request(
        self, run: RunContext, event: CheckpointRequestEvent
    ) -> HandlerResult:
        """A person asks the archiver to pin, unpin, delete or verify a checkpoint."""

    def on_alert(self, run: RunContext, event: AlertEvent) -> HandlerResult:
        """The watchdog changed an alert, or a stopping rule held and only alerts."""

    def on_alert_acknowledged(self, run: RunContext, event: AlertResponseEvent) -> HandlerResult:
        """A person acknowledged an alert."""

    def on_alert_muted(self, run: RunContext, event: AlertResponseEvent) -> HandlerResult:
        """A person muted alerts of the run."""

    def on_alert_unmuted(self, run: RunContext, event: AlertResponseEvent) -> HandlerResult:
        """A person lifted a mute."""

    def on_evaluation_reviewed(self, run: RunContext, event: RunEvent) -> HandlerResult:
        """The stopper has published every command about an evaluation."""

    def on_metrics(self, run: RunContext, event: MetricsEvent) -> HandlerResult:
        """Another producer than the training published metrics."""

    def on_subscriber_error(self, run: RunContext, event: SubscriberErrorEvent) -> HandlerResult:
        """Another subscriber failed on an event of the run."""

    def on_refused(self, run: RunContext, event: RunEvent) -> HandlerResult:
        """Broker or dashboard refused a request; of the run ``audit``."""

    def tick(self, run: RunContext, now: float) -> HandlerResult:
        """Called about once a second while the run is in memory; ``now`` is ``time.time()``.

        An exception is logged, and the next call is on time, or in the time of a ``RetryLater``.
        """

    def flush(self, run: RunContext) -> Any:
        """Called after a batch of events and before they count as processed.

        A subscriber that collects events sends them here. An exception is handled as one of the
        batch's last event. May be ``async``.
        """

    def close(self, run: RunContext) -> Any:
        """Called when the run leaves memory: it was idle for long, or the process ends."""
