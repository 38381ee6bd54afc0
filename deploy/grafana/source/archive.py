"""Panels of the archive of checkpoints."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from deploy.grafana.source import panels
from deploy.grafana.source.panels import Query, curves, number


def archive(run: str) -> list[panels.AnyPanel]:
    """Checkpoints by state, sizes, and the speed of copies, of the run that ``run`` selects."""

    def count(states: str) -> Query:
        return Query(f'sum(lineside_checkpoints{{{run},state=~"{states}"}})')

    buckets = f"lineside_archive_seconds_bucket{{{run}}}"
    return [
        number("In the archive", units.NoUnit, count("archived|verified")),
        number("On the way to it", units.NoUnit, count("held|waiting|copying|failed")),
        number(
            "Lost",
            units.NoUnit,
            count("evicted|incomplete|corrupt"),
            thresholds=panels.BAD,
            description="Gone or given up before they were archived, or found to be damaged.",
        ),
        number(
            "Newest at step",
            units.LocaleFormat,
            Query(f"lineside_checkpoint_last_archived_step{{{run}}}"),
        ),
        number(
            "Last one archived",
            units.DurationSeconds,
            Query(f"time() - lineside_checkpoint_last_archived_timestamp_seconds{{{run}}}"),
            description="Time since then.",
        ),
        number(
            "Size in the archive",
            units.BytesIEC,
            Query(f'sum(lineside_checkpoint_bytes{{{run},state=~"archived|verified"}})'),
            description="Of the checkpoints. Parts that several of them have are stored once.",
        ),
        curves(
            "Checkpoints by state",
            units.Short,
            Query(f'lineside_checkpoints{{{run},state!="local"}} > 0', "{{state}}"),
        ),
        curves(
            "Size by state",
            units.BytesIEC,
            Query(f"lineside_checkpoint_bytes{{{run}}} > 0", "{{state}}"),
        ),
        curves(
            "Sent to the archive",
            units.BytesPerSecondIEC,
            Query(f"rate(lineside_archive_sent_bytes_total{{{run}}}[$__rate_interval])", "sent"),
        ),
        curves(
            "Time from save to archive",
            units.DurationSeconds,
            *(
                Query(f"histogram_quantile({q}, {buckets})", legend)
                for q, legend in ((0.5, "median"), (0.9, "nine of ten"))
            ),
            description="Of all checkpoints of the run.",
        ),
    ]
