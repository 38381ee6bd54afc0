"""The dashboard of one run."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import units

from deploy.grafana.source import panels
from deploy.grafana.source.archive import archive
from deploy.grafana.source.hardware import gpus, machine
from deploy.grafana.source.panels import Query, curves, name_of, number, timeline

RUN = 'run="$run"'


def run() -> dashboards.Dashboard:
    """Curves, speed, ranks, checkpoints, machine and GPUs of the run that is chosen."""
    made = (
        panels.new_dashboard(
            "Lineside: one run", panels.RUN_UID, "What one run does, and the machines it uses."
        )
        .with_variable(
            panels.label_variable(
                "project", "Project", "label_values(lineside_run_info, project)", multi=True
            )
        )
        .with_variable(
            panels.label_variable(
                "run",
                "Run",
                'query_result(last_over_time(lineside_run_info{project=~"$project"}[$__range]))',
                regex='/name="(?<text>[^"]*)".*run="(?<value>[^"]*)"/',
            )
        )
        .with_variable(
            panels.label_variable(
                "metric",
                "Metric",
                f"label_values(lineside_run_metric{{{RUN}}}, metric)",
                multi=True,
            )
        )
    )
    for annotation in _annotations():
        made.annotation(annotation)
    for title, found in _rows().items():
        made.with_row(dashboards.Row(title))
        for panel in found:
            made.with_panel(panel)
    return made


def _annotations() -> list[panels.Annotation]:
    def changed(family: str, more: str = "") -> str:
        series = f"{family}{{{RUN}{more}}}"
        return f"changes({series}[1m]) > 0 or ({series} unless {series} offset 1m)"

    return [
        panels.Annotation(
            "Alerts", "red", f'ALERTS{{{RUN},alertstate="firing"}}', "{{alertname}}", "{{severity}}"
        ),
        panels.Annotation(
            "Attempts", "orange", changed("lineside_run_attempt"), "A new attempt of the run"
        ),
        panels.Annotation(
            "Checkpoints",
            "purple",
            changed("lineside_checkpoint_last_saved_timestamp_seconds"),
            "Checkpoint",
        ),
        panels.Annotation(
            "Commands",
            "blue",
            changed("lineside_commands_total", ',state="applied"'),
            "Command: {{op}}",
        ),
    ]


def _rows() -> dict[str, list[panels.AnyPanel]]:
    return {
        "$run": _overview(),
        "Training": _training(),
        "Speed": _speed(),
        "Checkpoints, commands and alerts": _actions(),
        "Archive of checkpoints": archive(RUN),
        "Machine": machine(RUN),
        "GPUs": gpus(RUN),
        "Events": _events(),
    }


def _overview() -> list[panels.AnyPanel]:
    return [
        name_of("Status", Query(f"lineside_run_status{{{RUN}}} == 1", "{{status}}")),
        number("Progress", units.PercentUnit, Query(f"lineside_run_progress_ratio{{{RUN}}}")),
        number("Time left", units.DurationSeconds, Query(f"lineside_run_eta_seconds{{{RUN}}}")),
        number("Step", units.LocaleFormat, Query(f"lineside_run_step{{{RUN}}}")),
        number("of", units.LocaleFormat, Query(f"lineside_run_max_steps{{{RUN}}}")),
        number("Epoch", units.NoUnit, Query(f"lineside_run_epoch{{{RUN}}}"), decimals=2),
        number("Attempt", units.NoUnit, Query(f"lineside_run_attempt{{{RUN}}}")),
        number("Best metric", units.NoUnit, Query(f"lineside_run_best_metric{{{RUN}}}")),
        number("at step", units.LocaleFormat, Query(f"lineside_run_best_step{{{RUN}}}")),
        number(
            "Last sign of life",
            units.DurationSeconds,
            Query(f"time() - lineside_run_last_event_timestamp_seconds{{{RUN}}}"),
        ),
        number(
            "Last step ended",
            units.DurationSeconds,
            Query(f"time() - lineside_run_last_step_timestamp_seconds{{{RUN}}}"),
            description="Time since then.",
        ),
        number(
            "Running for",
            units.DurationSeconds,
            Query(
                f"(lineside_run_ended_timestamp_seconds{{{RUN}}} or time() + 0 * "
                f"lineside_run_started_timestamp_seconds{{{RUN}}})"
                f" - lineside_run_started_timestamp_seconds{{{RUN}}}"
            ),
        ),
        panels.rows(
            "What it is",
            "max by (run, name, project, host, framework, model, world_size) "
            f"(lineside_run_info{{{RUN}}})",
            labels={
                "name": "Name",
                "run": "Run",
                "project": "Project",
                "host": "Host",
                "framework": "Framework",
                "model": "Model",
                "world_size": "Ranks",
            },
            height=4,
        ),
        timeline(
            "Status",
            "lineside_run_status",
            "status",
            panels.STATUS_COLORS,
            selector=RUN,
            by="run",
            legend="status",
            span=12,
        ),
        timeline(
            "Ranks",
            "lineside_rank_phase",
            "phase",
            panels.PHASE_COLORS,
            selector=RUN,
            by="rank",
            legend="rank {{rank}}",
            span=12,
        ),
    ]


def _training() -> list[panels.AnyPanel]:
    return [
        curves(
            "Loss",
            units.NoUnit,
            Query(f"lineside_run_loss{{{RUN}}}", "loss"),
            Query(f"lineside_run_eval_loss{{{RUN}}}", "eval_loss"),
            minimum=None,
            span=12,
            description="By the time of the scrape. Curves by step are on the run's page.",
        ),
        curves(
            "Metrics",
            units.NoUnit,
            Query(f'lineside_run_metric{{{RUN},metric=~"$metric"}}', "{{metric}} ({{producer}})"),
            minimum=None,
            span=12,
        ),
        curves(
            "Learning rate",
            units.NoUnit,
            Query(f"lineside_run_learning_rate{{{RUN}}}", "learning rate"),
        ),
        curves(
            "Norm of the gradients",
            units.NoUnit,
            Query(f"lineside_run_grad_norm{{{RUN}}}", "grad_norm"),
            log_scale=True,
            minimum=None,
        ),
        curves(
            "Values that are NaN or infinite",
            units.Short,
            Query(f"lineside_run_nonfinite_total{{{RUN}}}", "{{metric}} ({{producer}})"),
        ),
    ]


def _speed() -> list[panels.AnyPanel]:
    buckets = f"rate(lineside_run_step_seconds_bucket{{{RUN}}}[$__rate_interval])"
    return [
        curves(
            "Steps a second",
            units.Short,
            Query(f"rate(lineside_run_steps_total{{{RUN}}}[$__rate_interval])", "measured"),
            Query(f"lineside_run_steps_per_second{{{RUN}}}", "while training"),
            description="While training: without evaluations, saves and pauses.",
        ),
        curves(
            "Time of a step",
            units.Seconds,
            *(
                Query(f"histogram_quantile({q}, sum by (le) ({buckets}))", legend)
                for q, legend in ((0.5, "median"), (0.9, "nine of ten"), (0.99, "99 of 100"))
            ),
        ),
        curves(
            "Waiting for data",
            units.PercentUnit,
            Query(f"run:lineside_data_wait:ratio10m{{{RUN}}}", "share of the time"),
            maximum=1,
            description="Of the time of steps, waits included. The mean of ten minutes.",
        ),
        curves(
            "Samples and tokens a second",
            units.Short,
            Query(f'lineside_run_metric{{{RUN},metric=~".*_per_second"}}', "{{metric}}"),
            description="As the training logs them: evaluations do, and the end of a training.",
        ),
        curves(
            "Time since the last hook",
            units.Seconds,
            Query(f"lineside_rank_hook_age_seconds{{{RUN}}}", "rank {{rank}}"),
        ),
        curves(
            "Age of the newest heartbeat",
            units.Seconds,
            Query(f"time() - lineside_rank_heartbeat_timestamp_seconds{{{RUN}}}", "rank {{rank}}"),
        ),
    ]


def _actions() -> list[panels.AnyPanel]:
    return [
        number(
            "Checkpoints",
            units.NoUnit,
            Query(f'lineside_checkpoints{{{RUN},state="local"}}'),
            description="In their folder: written, and not removed by the Trainer.",
        ),
        number(
            "Last one at step",
            units.LocaleFormat,
            Query(f"lineside_checkpoint_last_saved_step{{{RUN}}}"),
        ),
        number(
            "Last one written",
            units.DurationSeconds,
            Query(f"time() - lineside_checkpoint_last_saved_timestamp_seconds{{{RUN}}}"),
            description="Time since then.",
        ),
        number(
            "Steps between them",
            units.LocaleFormat,
            Query(f"lineside_checkpoint_interval_steps{{{RUN}}}"),
            description="save_steps, or the most that there have been.",
        ),
        number("Commands waiting", units.NoUnit, Query(f"lineside_commands_pending{{{RUN}}}")),
        number(
            "Alerts that fire",
            units.NoUnit,
            Query(
                f'count(ALERTS{{{RUN},alertstate="firing"}}) '
                f"or 0 * count(lineside_run_info{{{RUN}}})"
            ),
            thresholds=panels.BAD,
        ),
        curves(
            "Steps since the last checkpoint",
            units.LocaleFormat,
            Query(
                f"lineside_run_step{{{RUN}}} - lineside_checkpoint_last_saved_step{{{RUN}}}",
                "steps",
            ),
        ),
        curves(
            "Commands",
            units.Short,
            Query(f"lineside_commands_total{{{RUN}}}", "{{op}}: {{state}}"),
        ),
        curves(
            "Alerts of watchdog and stopper",
            units.Short,
            Query(f"lineside_alerts_total{{{RUN}}}", "{{rule}}"),
        ),
    ]


def _events() -> list[panels.AnyPanel]:
    return [
        number(
            "Events lost",
            units.NoUnit,
            Query(f"sum(lineside_events_lost_total{{{RUN}}})"),
            thresholds=panels.BAD,
            span=8,
        ),
        number(
            "Values of metrics beyond the limit",
            units.NoUnit,
            Query(f"lineside_run_metrics_dropped_total{{{RUN}}}"),
            span=8,
        ),
        number(
            "Time that hooks took",
            units.PercentUnit,
            Query(
                f"lineside_hook_seconds_sum{{{RUN}}} / (time() - "
                f"lineside_run_started_timestamp_seconds{{{RUN}}})"
            ),
            decimals=3,
            span=8,
            description="Share of the time since the run began, pauses included.",
        ),
        curves(
            "Events a second",
            units.Short,
            Query(f"rate(lineside_events_emitted_total{{{RUN}}}[$__rate_interval])", "emitted"),
            Query(f"rate(lineside_events_received_total{{{RUN}}}[$__rate_interval])", "received"),
        ),
        curves(
            "Events lost",
            units.Short,
            Query(f"lineside_events_lost_total{{{RUN}}}", "{{reason}}"),
        ),
        curves(
            "Events that wait in the spool",
            units.Short,
            Query(f"lineside_rank_unsent_events{{{RUN}}}", "rank {{rank}}"),
            description="Those that the broker has not acknowledged.",
        ),
        curves(
            "Time of a hook",
            units.Seconds,
            Query(
                f"rate(lineside_hook_seconds_sum{{{RUN}}}[$__rate_interval]) / "
                f"rate(lineside_hook_seconds_count{{{RUN}}}[$__rate_interval])",
                "mean",
            ),
        ),
    ]
