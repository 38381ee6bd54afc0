"""Every family of metrics on the exporter's page; docs/reference/metrics.md lists the same ones."""

from __future__ import annotations

from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM, SUMMARY = "gauge", "counter", "histogram", "summary"

RUN = ("run", "project")
"""The labels that every family of a run has."""


@dataclass(frozen=True)
class Family:
    """A family of metrics. ``labels`` are those beside the ones that all of its kind have.

    The ``name`` of a counter has its ``_total``.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def base_name(self) -> str:
        """The name of a counter without ``_total``, which OpenMetrics declares."""
        return self.name.removesuffix("_total") if self.type == COUNTER else self.name


RUN_FAMILIES = (
    Family(
        "lineside_run_info",
        GAUGE,
        "1; what is known of a run.",
        ("name", "host", "framework", "model", "world_size"),
    ),
    Family("lineside_run_status", GAUGE, "1 for the status of a run, 0 for others.", ("status",)),
    Family("lineside_run_started_timestamp_seconds", GAUGE, "When the run began."),
    Family("lineside_run_ended_timestamp_seconds", GAUGE, "When the run ended."),
    Family("lineside_run_last_step_timestamp_seconds", GAUGE, "When the newest step ended."),
    Family(
        "lineside_run_last_event_timestamp_seconds",
        GAUGE,
        "When the newest sign of life of the run came.",
    ),
    Family("lineside_run_step", GAUGE, "The newest step of the newest attempt."),
    Family("lineside_run_max_steps", GAUGE, "The step at which training is to end."),
    Family("lineside_run_epoch", GAUGE, "The newest epoch, fractional."),
    Family("lineside_run_attempt", GAUGE, "The number of the newest attempt, from 1."),
    Family("lineside_run_progress_ratio", GAUGE, "The part of max_steps that is done."),
    Family("lineside_run_eta_seconds", GAUGE, "Time left at the present time for each step."),
    Family("lineside_run_loss", GAUGE, "The newest loss that the Trainer logged."),
    Family("lineside_run_eval_loss", GAUGE, "The newest eval_loss."),
    Family("lineside_run_learning_rate", GAUGE, "The newest learning rate."),
    Family("lineside_run_grad_norm", GAUGE, "The newest norm of the gradients."),
    Family("lineside_run_best_metric", GAUGE, "best_metric of the Trainer's state."),
    Family("lineside_run_best_step", GAUGE, "The step of best_metric."),
    Family(
        "lineside_run_metric",
        GAUGE,
        "The newest value of each metric, by the producer that reported it.",
        ("producer", "metric"),
    ),
    Family(
        "lineside_run_metrics_dropped_total",
        COUNTER,
        "Values of metrics beyond the limit of metrics of one run.",
    ),
    Family(
        "lineside_run_nonfinite_total",
        COUNTER,
        "Values that are NaN or infinite.",
        ("producer", "metric"),
    ),
    Family("lineside_run_steps_per_second", GAUGE, "Steps a second, waiting included."),
    Family(
        "lineside_run_steps_total", COUNTER, "Steps that ended, those repeated after a resume too."
    ),
    Family("lineside_run_step_seconds", HISTOGRAM, "Time from the beginning of a step to its end."),
    Family(
        "lineside_run_data_wait_seconds",
        HISTOGRAM,
        "Time between two steps with no evaluation, save, epoch or pause between them.",
    ),
    Family("lineside_rank_phase", GAUGE, "1 for the phase of a rank.", ("rank", "phase")),
    Family(
        "lineside_rank_heartbeat_timestamp_seconds",
        GAUGE,
        "When the shipper last saw the process of a rank.",
        ("rank",),
    ),
    Family(
        "lineside_rank_hook_age_seconds",
        GAUGE,
        "Time since the last hook of a rank, as of its last heartbeat.",
        ("rank",),
    ),
    Family(
        "lineside_rank_resident_memory_bytes", GAUGE, "Memory of the process of a rank.", ("rank",)
    ),
    Family(
        "lineside_rank_unsent_events",
        GAUGE,
        "Events of a rank that the broker had not acknowledged at its last heartbeat.",
        ("rank",),
    ),
    Family("lineside_events_emitted_total", COUNTER, "Events that the processes of a run emitted."),
    Family("lineside_events_received_total", COUNTER, "Events of these that the exporter read."),
    Family(
        "lineside_events_lost_total",
        COUNTER,
        "Events that never came: dropped (their producer reported it) or missing.",
        ("reason",),
    ),
    Family("lineside_hook_seconds", SUMMARY, "Time that Lineside's hooks took in the training."),
    Family(
        "lineside_checkpoints",
        GAUGE,
        "Checkpoints: local ones, saved and not removed by the Trainer; others by archive state.",
        ("state",),
    ),
    Family(
        "lineside_checkpoint_bytes", GAUGE, "Size of these, by their archive state.", ("state",)
    ),
    Family("lineside_checkpoint_last_saved_step", GAUGE, "The step of the newest checkpoint."),
    Family("lineside_checkpoint_last_saved_timestamp_seconds", GAUGE, "When it was written."),
    Family(
        "lineside_checkpoint_interval_steps",
        GAUGE,
        "Steps from one checkpoint to the next: save_steps, or the most there were.",
    ),
    Family(
        "lineside_checkpoint_last_archived_step",
        GAUGE,
        "The step of the newest checkpoint in the archive.",
    ),
    Family(
        "lineside_checkpoint_last_archived_timestamp_seconds",
        GAUGE,
        "When a checkpoint was last archived.",
    ),
    Family("lineside_archive_sent_bytes_total", COUNTER, "Bytes that were sent to the archive."),
    Family(
        "lineside_archive_seconds",
        HISTOGRAM,
        "Time from the save of a checkpoint until it was in the archive.",
    ),
    Family(
        "lineside_alerts_total",
        COUNTER,
        "Alerts that opened, of the watchdog and of the stopper.",
        ("rule",),
    ),
    Family("lineside_commands_total", COUNTER, "Commands that came into a state.", ("op", "state")),
    Family("lineside_commands_pending", GAUGE, "Commands without a final answer."),
)
"""Families with a series or more for each run."""

OWN_FAMILIES = (
    Family("lineside_build_info", GAUGE, "1; the exporter's versions.", ("version", "python")),
    Family("lineside_runs", GAUGE, "Runs with series on this page, by status.", ("status",)),
    Family("lineside_exporter_connected", GAUGE, "1 if the broker answers the exporter."),
    Family(
        "lineside_subscriber_lag_entries",
        GAUGE,
        "Journal entries that the exporter has not read.",
        ("subscriber",),
    ),
    Family(
        "lineside_subscriber_lag_seconds",
        GAUGE,
        "For how long the exporter has been behind the journal.",
        ("subscriber",),
    ),
    Family(
        "lineside_subscriber_errors_total",
        COUNTER,
        "Failures of subscribers that were reported on a run.",
        ("subscriber",),
    ),
    Family(
        "lineside_alerts_firing",
        GAUGE,
        "Open alerts of the watchdog, of all runs and of none.",
        ("rule", "severity"),
    ),
    Family("lineside_journal_bytes", GAUGE, "The broker's journal, where it is on this machine."),
    Family("lineside_store_bytes", GAUGE, "The store, where it is a file on this machine."),
)
"""Families of the exporter and of Lineside."""
