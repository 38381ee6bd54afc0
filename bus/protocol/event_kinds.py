"""The kinds of events: one registry for wire, spool, store, pages and documentation.

Everything that depends on a kind alone is here. docs/reference/events.md lists the ``data`` of each
kind; its column "when" is ``EventKind.doc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DROP_FIRST, DROP_SECOND, DROP_LAST = 0, 1, 2
"""Drop levels: a full spool drops events of the lowest level first."""
TRAINER, TRAINING, BESIDE = "trainer", "training", "beside"
"""Sources: a callback of the Trainer, Lineside in the training process, a process beside it."""
SHOWN, HIDDEN, COUNTED = "shown", "hidden", "counted"
"""On the timeline: shown, hidden until a person asks for it, or only counted."""
ANSWER_PREFIX = "control_"
"""Each kind with which a training answers commands begins with this, later versions' too."""
EVALUATION_REVIEWED = "evaluation_reviewed"
PRUNED_ERROR = "TrialPruned"
"""The type in ``train_error`` of a hyperparameter trial that its search ended early."""
METRICS = "metrics"
SUBSCRIBER_ERROR = "subscriber_error"
REFUSED = "refused"
ALERT = "alert"
ALERT_ACKNOWLEDGED, ALERT_MUTED, ALERT_UNMUTED = (
    "alert_acknowledged",
    "alert_muted",
    "alert_unmuted",
)
CHECKPOINT_HELD, CHECKPOINT_STATE, CHECKPOINT_PROGRESS, CHECKPOINT_REQUEST = (
    "checkpoint_held",
    "checkpoint_state",
    "checkpoint_progress",
    "checkpoint_request",
)


@dataclass(frozen=True)
class EventKind:
    """One kind of event.

    ``label`` is its name on pages, ``doc`` is when it is published, and ``summary`` is the key of
    its data that holds numbers by name. ``command_state`` is the state of a command once the event
    is published, and ``is_final`` whether that state is the last one. A step kind comes several
    times a step. A training can be resumed at the step of a resume point.
    """

    name: str
    label: str
    doc: str
    source: str = BESIDE
    drop_level: int = DROP_LAST
    timeline: str = SHOWN
    summary: str = ""
    command_state: str = ""
    is_final: bool = False
    is_step: bool = False
    is_resume_point: bool = False
    ends_training: bool = False


def _step(name: str, label: str, doc: str) -> EventKind:
    return EventKind(name, label, doc, TRAINER, DROP_FIRST, COUNTED, is_step=True)


EVENT_KINDS = (
    EventKind(
        "run_start", "Process started", "A process opens its stream; its first event.", TRAINING
    ),
    EventKind(
        "model",
        "Model described",
        "Right after `run_start` of a Trainer's rank 0: how the model is built; again before "
        "`save`, `predict` and `train_end` if its configuration has changed.",
        TRAINING,
        DROP_SECOND,
        HIDDEN,
    ),
    EventKind(
        "run_end",
        "Process ended",
        "A process closes its stream; its last event, missing if the process was killed.",
        TRAINING,
        ends_training=True,
    ),
    EventKind(
        "init_end",
        "Trainer built",
        "The Trainer was made; published when a run opens, with the time at which it happened.",
        TRAINER,
    ),
    EventKind("train_begin", "Training began", "`train()` begins.", TRAINER),
    EventKind(
        "train_end",
        "Training ended",
        "`train()` returns; after an exception `train_error` comes instead.",
        TRAINER,
        ends_training=True,
    ),
    EventKind(
        "train_error",
        "Training failed",
        "`train()` raised, whether or not the script catches it; every rank publishes it.",
        TRAINING,
        ends_training=True,
    ),
    EventKind("epoch_begin", "Epoch began", "An epoch begins.", TRAINER),
    EventKind("epoch_end", "Epoch ended", "An epoch ends.", TRAINER),
    _step("step_begin", "Step began", "Before the first batch of a step."),
    _step("substep_end", "Substep ended", "After each batch of an accumulation but the last."),
    _step("pre_optimizer_step", "Gradients clipped", "The gradients are clipped."),
    _step("optimizer_step", "Optimizer stepped", "The optimizer has stepped."),
    _step("step_end", "Step ended", "A step ends; `step` is already the new one."),
    _step(
        "prediction_step", "Prediction step", "After each batch of an evaluation or a prediction."
    ),
    EventKind(
        "evaluate",
        "Evaluated",
        "An evaluation ends.",
        TRAINER,
        summary="metrics",
        is_resume_point=True,
    ),
    EventKind("predict", "Predicted", "A prediction ends.", TRAINER, summary="metrics"),
    EventKind(
        "save",
        "Checkpoint saved",
        "A checkpoint was written and old ones were removed.",
        TRAINER,
        is_resume_point=True,
    ),
    EventKind(
        "log",
        "Logged",
        "The Trainer logs.",
        TRAINER,
        DROP_SECOND,
        HIDDEN,
        summary="logs",
    ),
    EventKind(
        "push_begin",
        "Push to the hub began",
        "Before a push to the hub (transformers 5.23 and later).",
        TRAINER,
    ),
    EventKind(
        METRICS,
        "Metrics reported",
        "A process beside the training reports metrics.",
        drop_level=DROP_SECOND,
        timeline=HIDDEN,
        summary="metrics",
    ),
    EventKind(
        "gap",
        "Events dropped",
        "The process dropped events, and no longer does; or its shipper set aside one that the "
        "broker cannot read.",
        TRAINING,
    ),
    EventKind(
        CHECKPOINT_HELD,
        "Checkpoint held",
        "A checkpoint was linked for the archiver, so that its files outlive rotation; or could "
        "not be.",
        TRAINING,
        timeline=HIDDEN,
    ),
    EventKind(
        CHECKPOINT_STATE,
        "Checkpoint state",
        "The archiver brought a checkpoint into another state.",
    ),
    EventKind(
        CHECKPOINT_PROGRESS,
        "Checkpoint copying",
        "The archiver copies a checkpoint: at its start, and every 5 s at most.",
        BESIDE,
        DROP_SECOND,
        COUNTED,
    ),
    EventKind(
        CHECKPOINT_REQUEST,
        "Checkpoint request",
        "A person asks the archiver to pin, unpin, delete or verify a checkpoint.",
    ),
    EventKind(
        ALERT,
        "Alert",
        "The watchdog opened, updated or closed an alert; or a rule of the stopper held that only "
        "alerts, or would have acted without `--dry-run`, or cannot hold because its metric never "
        "came, at the step of the event that caused it.",
    ),
    EventKind(
        ALERT_ACKNOWLEDGED,
        "Alert acknowledged",
        "A person has seen an alert, which gets no more reminders.",
    ),
    EventKind(
        ALERT_MUTED,
        "Alerts muted",
        "A person muted alerts of the run, or of every run in `_lineside`.",
    ),
    EventKind(ALERT_UNMUTED, "Alerts unmuted", "A person lifted a mute before its time."),
    EventKind(
        SUBSCRIBER_ERROR,
        "Subscriber failed",
        "A subscriber's handler raised on an event of the run and it is being retried for long, "
        "was skipped or stopped the subscriber, or it has succeeded after that; or a hook of a "
        "hosted callback hangs, or its process ended.",
    ),
    EventKind(
        "process_lost",
        "Process lost",
        "A rank's process is gone without `train_end` and `run_end`.",
    ),
    EventKind("process_exit", "Command ended", "The command of `lineside run` ended."),
    EventKind(
        "control_on",
        "Takes commands",
        "Rank 0 takes commands; the first event of `run/control/<attempt>`.",
        TRAINING,
        timeline=HIDDEN,
    ),
    EventKind(
        "command",
        "Command",
        "A client asks something of the training, or the training received SIGTERM.",
        command_state="requested",
    ),
    EventKind(
        EVALUATION_REVIEWED,
        "Evaluation reviewed",
        "The stopper has published every command about an evaluation for which training waits.",
        timeline=HIDDEN,
    ),
    EventKind(
        "control_delivered",
        "Command delivered",
        "A command reached the training process.",
        TRAINING,
        timeline=HIDDEN,
        command_state="delivered",
    ),
    EventKind(
        "control_applied",
        "Command applied",
        "A command was applied at `step`; other ranks publish this too, in their own streams.",
        TRAINING,
        command_state="applied",
        is_final=True,
    ),
    EventKind(
        "control_rejected",
        "Command rejected",
        "A command was not applied.",
        TRAINING,
        command_state="rejected",
        is_final=True,
    ),
    EventKind(
        "control_expired",
        "Command expired",
        "A command came after its `expires_at`.",
        TRAINING,
        command_state="expired",
        is_final=True,
    ),
    EventKind(
        "control_superseded",
        "Command superseded",
        "A later command took the place of this one.",
        TRAINING,
        command_state="superseded",
        is_final=True,
    ),
    EventKind(
        "heartbeat",
        "Heartbeat",
        "Once a second for each rank that trains or evaluates.",
        BESIDE,
        DROP_SECOND,
        COUNTED,
    ),
    EventKind(REFUSED, "Refused", "The broker or the dashboard refused a request."),
)
"""Every kind, in the order in which pages list them."""

KINDS: Mapping[str, EventKind] = {kind.name: kind for kind in EVENT_KINDS}
LIFECYCLE_KINDS = tuple(kind.name for kind in EVENT_KINDS if kind.source == TRAINER)
"""The Trainer's own callbacks, without ``on_`` (transformers 4.56 has all but push_begin)."""
OWN_KINDS = tuple(kind.name for kind in EVENT_KINDS if kind.source != TRAINER)
"""Lineside's own kinds, which a script cannot publish."""
STEP_KINDS = frozenset(kind.name for kind in EVENT_KINDS if kind.is_step)
"""Kinds that come several times a step. The store folds them into one timing row a step."""
END_KINDS = frozenset(kind.name for kind in EVENT_KINDS if kind.ends_training)
"""Kinds after which the training takes no commands."""
RESUME_KINDS = frozenset(kind.name for kind in EVENT_KINDS if kind.is_resume_point)
"""Kinds at whose step a training can be resumed."""


def event_kind(name: str) -> EventKind:
    """The kind called ``name``; for a script's own or a later version's kind, one made of its name.

    An unknown kind is dropped like a log, an unknown answer to a command last.
    """
    known = KINDS.get(name)
    if known is not None:
        return known
    level = DROP_LAST if name.startswith(ANSWER_PREFIX) else DROP_SECOND
    return EventKind(name, name.replace("_", " ").capitalize(), "", drop_level=level)
