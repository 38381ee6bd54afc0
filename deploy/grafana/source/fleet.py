"""The dashboard of all runs and machines."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import units

from deploy.grafana.source import panels
from deploy.grafana.source.panels import Column, Query, curves, number, rows, timeline

PROJECT = 'project=~"$project"'
_RUN_LINK = f"/d/{panels.RUN_UID}?var-run=${{__data.fields.Run}}&${{__url_time_range}}"


def fleet() -> dashboards.Dashboard:
    """Which runs train, which need a look, and how the machines are used."""
    made = panels.new_dashboard(
        "Lineside: all runs",
        panels.FLEET_UID,
        "Which runs train, which need a look, and how the machines are used.",
    ).with_variable(
        panels.label_variable(
            "project", "Project", "label_values(lineside_run_info, project)", multi=True
        )
    )
    for title, found in {"Runs": _runs(), "Machines": _machines()}.items():
        made.with_row(dashboards.Row(title))
        for panel in found:
            made.with_panel(panel)
    return made


def _runs() -> list[panels.AnyPanel]:
    counts = [
        number(
            title,
            units.NoUnit,
            Query(f'sum(lineside_run_status{{{PROJECT},status=~"{statuses}"}})'),
            thresholds=((None, "text"), (1, color)),
            description=description,
        )
        for title, statuses, color, description in (
            ("Running", "running", "green", ""),
            ("Stalled", "stalled", "orange", "The process lives, training does not advance."),
            ("Disconnected", "disconnected", "yellow", "No sign of life."),
            ("Failed, killed or lost", "failed|killed|lost", "red", "Ended in ten minutes."),
            ("Finished", "finished|stopped|interrupted", "blue", "Ended in ten minutes."),
        )
    ]
    alerts = number(
        "Alerts that fire",
        units.NoUnit,
        Query('count(ALERTS{alertname=~"Lineside.*",alertstate="firing"}) or vector(0)'),
        thresholds=((None, "green"), (1, "red")),
    )
    return [
        *counts,
        alerts,
        rows(
            "Runs",
            "max by (run, name, project, host, model, status) "
            f"((lineside_run_status{{{PROJECT}}} == 1) * on (instance, run, project) "
            "group_left (name, host, model) lineside_run_info)",
            [
                Column(title, f"max by (run, project) ({expr})", unit)
                for title, unit, expr in (
                    ("Progress", units.PercentUnit, f"lineside_run_progress_ratio{{{PROJECT}}}"),
                    ("Time left", units.DurationSeconds, f"lineside_run_eta_seconds{{{PROJECT}}}"),
                    ("Step", units.LocaleFormat, f"lineside_run_step{{{PROJECT}}}"),
                    ("Loss", units.NoUnit, f"lineside_run_loss{{{PROJECT}}}"),
                    ("Best", units.NoUnit, f"lineside_run_best_metric{{{PROJECT}}}"),
                    ("Steps/s", units.Short, f"lineside_run_steps_per_second{{{PROJECT}}}"),
                    (
                        "Sign of life",
                        units.DurationSeconds,
                        f"time() - lineside_run_last_event_timestamp_seconds{{{PROJECT}}}",
                    ),
                    (
                        "Events lost",
                        units.NoUnit,
                        f"sum without (reason) (lineside_events_lost_total{{{PROJECT}}})",
                    ),
                )
            ],
            labels={
                "name": "Name",
                "status": "Status",
                "project": "Project",
                "run": "Run",
                "host": "Host",
                "model": "Model",
            },
            links={"name": _RUN_LINK, "run": _RUN_LINK},
            height=10,
        ),
        rows(
            "Alerts that fire",
            "max by (alertname, severity, name, run, project, host, gpu, filesystem, subscriber) "
            '(ALERTS{alertname=~"Lineside.*",alertstate="firing"})',
            labels={
                "alertname": "Alert",
                "severity": "Severity",
                "name": "Name",
                "project": "Project",
                "run": "Run",
                "host": "Host",
                "gpu": "GPU",
                "filesystem": "File system",
                "subscriber": "Subscriber",
            },
            links={"run": _RUN_LINK},
        ),
        curves(
            "Open alerts of the watchdog",
            units.Short,
            Query("max by (rule, severity) (lineside_alerts_firing) > 0", "{{rule}}, {{severity}}"),
            span=24,
            description="As on the page of Lineside, acknowledged and muted ones too.",
        ),
        timeline(
            "Status",
            "lineside_run_status",
            "status",
            panels.STATUS_COLORS,
            selector=PROJECT,
            by="run",
            legend="{{run}}",
        ),
        curves(
            "Progress",
            units.PercentUnit,
            Query(f"lineside_run_progress_ratio{{{PROJECT}}}", "{{run}}"),
            maximum=1,
        ),
        curves(
            "Loss", units.NoUnit, Query(f"lineside_run_loss{{{PROJECT}}}", "{{run}}"), minimum=None
        ),
        curves(
            "Steps a second",
            units.Short,
            Query(f"run:lineside_steps:rate5m{{{PROJECT}}}", "{{run}}"),
            description="The mean of five minutes, evaluations, saves and pauses included.",
        ),
    ]


def _machines() -> list[panels.AnyPanel]:
    def once(family: str, labels: str = "host") -> str:
        return f"max by (instance, {labels}) ({family}{{{PROJECT}}})"

    return [
        curves(
            "GPUs",
            units.PercentUnit,
            Query("gpu:lineside_gpu_utilization_ratio:avg10m", "{{host}} {{gpu}}"),
            maximum=1,
            description="The mean of ten minutes.",
        ),
        curves(
            "Memory of GPUs",
            units.PercentUnit,
            Query(
                f"{once('lineside_gpu_memory_used_bytes', 'host, gpu')} / "
                f"{once('lineside_gpu_memory_total_bytes', 'host, gpu')}",
                "{{host}} {{gpu}}",
            ),
            maximum=1,
        ),
        curves(
            "Power of all GPUs",
            units.Watt,
            Query(f"sum by (host) ({once('lineside_gpu_power_watts', 'host, gpu')})", "{{host}}"),
        ),
        curves(
            "Processors",
            units.PercentUnit,
            Query(once("lineside_host_cpu_ratio"), "{{host}}"),
            maximum=1,
        ),
        curves(
            "Memory in use",
            units.PercentUnit,
            Query(
                f"{once('lineside_host_memory_used_bytes')} / "
                f"{once('lineside_host_memory_total_bytes')}",
                "{{host}}",
            ),
            maximum=1,
        ),
        curves(
            "Space left",
            units.PercentUnit,
            Query("filesystem:lineside_filesystem_available:ratio", "{{host}}: {{filesystem}}"),
            maximum=1,
        ),
    ]
