"""The dashboard of Lineside itself, and of what watches it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import units

from deploy.grafana.source import panels
from deploy.grafana.source.panels import Query, curves, number

EXPORTER = 'job="lineside"'
GOOD = ((None, "red"), (1, "green"))


def health() -> dashboards.Dashboard:
    """Whether figures and alerts can be trusted."""
    made = panels.new_dashboard(
        "Lineside: its own health",
        panels.HEALTH_UID,
        "Whether the figures and alerts of Lineside can be trusted.",
    )
    found = {
        "Exporter and broker": _exporter(),
        "Trainings": _trainings(),
        "Prometheus and Alertmanager": _prometheus(),
    }
    for title, some in found.items():
        made.with_row(dashboards.Row(title))
        for panel in some:
            made.with_panel(panel)
    return made


def _exporter() -> list[panels.AnyPanel]:
    own = f"{{{EXPORTER}}}"
    return [
        number("Exporter answers", units.NoUnit, Query(f"min(up{own})"), thresholds=GOOD),
        number(
            "Broker answers",
            units.NoUnit,
            Query("min(lineside_exporter_connected)"),
            thresholds=GOOD,
        ),
        number(
            "Behind the journal",
            units.Seconds,
            Query("max(lineside_subscriber_lag_seconds)"),
            thresholds=((None, "green"), (30, "red")),
        ),
        number("Runs with series", units.NoUnit, Query("sum(lineside_runs)")),
        number("Journal", units.BytesIEC, Query("max(lineside_journal_bytes)")),
        number("Store", units.BytesIEC, Query("max(lineside_store_bytes)")),
        curves(
            "Entries of the journal that are not read",
            units.Short,
            Query("lineside_subscriber_lag_entries", "{{subscriber}} {{instance}}"),
        ),
        curves(
            "Behind the journal",
            units.Seconds,
            Query("lineside_subscriber_lag_seconds", "{{subscriber}} {{instance}}"),
        ),
        curves(
            "Failures of subscribers",
            units.Short,
            Query("lineside_subscriber_errors_total", "{{subscriber}}"),
        ),
        curves(
            "Journal and store",
            units.BytesIEC,
            Query("lineside_journal_bytes", "journal"),
            Query("lineside_store_bytes", "store"),
        ),
        curves(
            "Processor of the exporter",
            units.PercentUnit,
            Query(f"rate(process_cpu_seconds_total{own}[$__rate_interval])", "{{instance}}"),
            description="Share of one core.",
        ),
        curves(
            "Memory of the exporter",
            units.BytesIEC,
            Query(f"process_resident_memory_bytes{own}", "resident"),
            Query(f"process_virtual_memory_bytes{own}", "virtual"),
        ),
        curves(
            "Time of a scrape",
            units.Seconds,
            Query(f"scrape_duration_seconds{own}", "{{instance}}"),
        ),
        curves(
            "Samples of a scrape",
            units.Short,
            Query(f"scrape_samples_scraped{own}", "{{instance}}"),
        ),
        curves(
            "Open files of the exporter",
            units.Short,
            Query(f"process_open_fds{own}", "open"),
            Query(f"process_max_fds{own}", "limit"),
            log_scale=True,
            minimum=None,
        ),
        panels.rows(
            "Versions",
            f"max by (instance, version, python) (lineside_build_info{own})",
            [
                panels.Column(
                    "Running for",
                    f"time() - max by (instance) (process_start_time_seconds{own})",
                    units.DurationSeconds,
                )
            ],
            labels={"instance": "Exporter", "version": "Lineside", "python": "Python"},
            height=4,
        ),
    ]


def _trainings() -> list[panels.AnyPanel]:
    return [
        curves("Runs", units.Short, Query("sum by (status) (lineside_runs)", "{{status}}")),
        curves(
            "Events a second",
            units.Short,
            Query("sum(rate(lineside_events_emitted_total[$__rate_interval]))", "emitted"),
            Query("sum(rate(lineside_events_received_total[$__rate_interval]))", "received"),
        ),
        curves(
            "Events lost",
            units.Short,
            Query("sum by (reason) (lineside_events_lost_total)", "{{reason}}"),
        ),
        curves(
            "Time of a hook in the trainings",
            units.Seconds,
            Query(
                "sum(rate(lineside_hook_seconds_sum[$__rate_interval])) / "
                "sum(rate(lineside_hook_seconds_count[$__rate_interval]))",
                "mean",
            ),
        ),
        curves(
            "Age of the oldest heartbeat",
            units.Seconds,
            Query("max(time() - lineside_rank_heartbeat_timestamp_seconds)", "seconds"),
        ),
        curves(
            "Commands that wait",
            units.Short,
            Query("sum(lineside_commands_pending)", "commands"),
        ),
    ]


def _prometheus() -> list[panels.AnyPanel]:
    return [
        curves(
            "What answers",
            units.NoUnit,
            Query("up", "{{job}} {{instance}}"),
            maximum=1,
        ),
        curves(
            "Rules that failed",
            units.Short,
            Query(
                "sum by (rule_group) (rate(prometheus_rule_evaluation_failures_total"
                "[$__rate_interval]))",
                "{{rule_group}}",
            ),
        ),
        curves(
            "Time to evaluate the rules",
            units.Seconds,
            Query("prometheus_rule_group_last_duration_seconds", "{{rule_group}}"),
        ),
        curves(
            "Alerts sent to Alertmanager",
            units.Short,
            Query("sum(rate(prometheus_notifications_sent_total[$__rate_interval]))", "sent"),
            Query("sum(rate(prometheus_notifications_dropped_total[$__rate_interval]))", "dropped"),
        ),
        curves(
            "Alerts in Alertmanager",
            units.Short,
            Query("sum by (state) (alertmanager_alerts)", "{{state}}"),
        ),
        curves(
            "Notifications a second",
            units.Short,
            Query(
                "sum by (integration) (rate(alertmanager_notifications_total[$__rate_interval]))",
                "{{integration}}",
            ),
            Query(
                "sum by (integration) (rate(alertmanager_notifications_failed_total"
                "[$__rate_interval]))",
                "{{integration}}, failed",
            ),
        ),
    ]
