"""Turns the record of a run into samples, each a line of the page."""

from __future__ import annotations

from math import inf
from typing import Protocol

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import RANK_0, SAMPLER_PREFIX, is_rank
from lineside.store.recording.run_state import AttemptState, StreamState
from lineside.store.status import verdict
from lineside.store.status.attempt_order import order_attempts
from lineside.store.status.liveness import DISCONNECTED, STALLED, status_now
from lineside.subscribers.exporter.families import OWN_FAMILIES, RUN_FAMILIES
from lineside.subscribers.exporter.histogram import Histogram
from lineside.subscribers.exporter.record import NAMED_METRICS, TEXT_LENGTH, RunRecord
from lineside.subscribers.exporter.system import (
    SECONDS,
    SYSTEM_FAMILIES,
    system_metric,
)

STATUSES = (
    verdict.RUNNING,
    STALLED,
    DISCONNECTED,
    verdict.FINISHED,
    verdict.STOPPED,
    verdict.INTERRUPTED,
    verdict.FAILED,
    verdict.KILLED,
    verdict.LOST,
)
"""Every status that a run can have."""
PHASES = ("starting", "training", "waiting", "evaluating", "saving", "paused", "finished")
"""Every phase that a rank can have."""
RHYTHM_SAVES = 3
"""So many checkpoints show how many steps are usual, where the arguments have none."""
LOCAL = "local"
"""The state of a checkpoint in its folder, beside those that it has for the archive."""
_UNFINISHED = (verdict.RUNNING, STALLED, DISCONNECTED)

_OF_RUNS = (*RUN_FAMILIES, *SYSTEM_FAMILIES)
FAMILIES = {family.name: family for family in (*OWN_FAMILIES, *_OF_RUNS)}
"""Every family of the page by name."""

Lines = dict[str, list[str]]
"""Lines by the name of their family."""


def new_lines() -> Lines:
    """No line of any family of a run."""
    return {family.name: [] for family in _OF_RUNS}


def run_status(record: RunRecord, now: float) -> str:
    """The status of a run as of ``now``, as the dashboard shows it."""
    run = record.state
    return status_now(run.status, run.heard_at, run.stalls_at, now)


def add_run(lines: Lines, record: RunRecord, status: str, now: float) -> None:
    """Append the samples of one run, whose status is ``status``."""
    run = record.state
    labels = f'run="{escape(run.id)}",project="{escape((run.project or "")[:TEXT_LENGTH])}"'

    def add(family: str, value: float | None, more: str = "", suffix: str = "") -> None:
        if value is not None:
            lines[family].append(f"{family}{suffix}{{{labels}{more}}} {format_value(value)}\n")

    attempt = order_attempts(run.attempts.values())[-1]
    rank_0 = run.streams.get((RANK_0, attempt.attempt))
    is_open = status in _UNFINISHED
    info = {"name": (run.name or run.id)[:TEXT_LENGTH], **record.info}
    info_labels = "".join(f',{name}="{escape(text)}"' for name, text in info.items())
    add("lineside_run_info", 1, info_labels)
    for name in STATUSES:
        add("lineside_run_status", int(name == status), f',status="{name}"')
    add("lineside_run_started_timestamp_seconds", run.started_at)
    add("lineside_run_ended_timestamp_seconds", run.ended_at)
    add("lineside_run_last_step_timestamp_seconds", record.stepped_at)
    add("lineside_run_last_event_timestamp_seconds", run.heard_at)
    add("lineside_run_step", run.step)
    add("lineside_run_max_steps", run.max_steps)
    add("lineside_run_epoch", run.epoch)
    add("lineside_run_attempt", len(run.attempts))
    _add_progress(add, attempt, rank_0, is_open=is_open)
    for key, family in NAMED_METRICS.items():
        add(family, record.metrics.get(key))
    add("lineside_run_best_metric", record.best_metric)
    add("lineside_run_best_step", record.best_step)
    metric_lines = lines["lineside_run_metric"]
    for (producer, name), value in record.metrics.items():
        metric_lines.append(
            f'lineside_run_metric{{{labels},producer="{producer}",metric="{escape(name)}"}} '
            f"{format_value(value)}\n"
        )
    add("lineside_run_metrics_dropped_total", record.metrics_dropped)
    for (producer, name), count in record.nonfinite.items():
        add(
            "lineside_run_nonfinite_total",
            count,
            f',producer="{producer}",metric="{escape(name)}"',
        )
    add("lineside_run_steps_total", record.steps)
    _add_histogram(add, "lineside_run_step_seconds", record.step_seconds)
    _add_histogram(add, "lineside_run_data_wait_seconds", record.data_wait)
    if is_open:
        _add_ranks(add, record, attempt)
        _add_system(add, record, now)
    _add_account(add, record)
    _add_checkpoints(add, record)
    for rule, count in record.alerts.items():
        add("lineside_alerts_total", count, f',rule="{escape(rule)}"')
    for (op, state), count in record.commands.items():
        add("lineside_commands_total", count, f',op="{op}",state="{state}"')
    waits = [expires + commands.GRACE_SECONDS > now for expires in record.pending.values()]
    add("lineside_commands_pending", sum(waits) if is_open else 0)


def _save_interval(record: RunRecord) -> float | None:
    every, max_steps = record.save_steps, record.state.max_steps
    if every is None:
        return record.save_interval if record.saves >= RHYTHM_SAVES else None
    return every if every >= 1 else every * (max_steps or 0) or None


class _Add(Protocol):
    def __call__(
        self, family: str, value: float | None, more: str = "", suffix: str = ""
    ) -> None: ...


def _add_progress(
    add: _Add, attempt: AttemptState, rank_0: StreamState | None, *, is_open: bool
) -> None:
    step, max_steps = attempt.step, attempt.max_steps
    seconds = rank_0.step_seconds if rank_0 is not None and is_open else None
    if seconds:
        add("lineside_run_steps_per_second", 1 / seconds)
    if step is not None and max_steps:
        add("lineside_run_progress_ratio", min(1.0, step / max_steps))
        if seconds:
            add("lineside_run_eta_seconds", max(0, max_steps - step) * seconds)


def _add_histogram(add: _Add, family: str, histogram: Histogram) -> None:
    total = 0
    for bound, count in zip([*histogram.bounds, inf], histogram.counts, strict=True):
        total += count
        add(family, total, f',le="{format_value(bound)}"', "_bucket")
    add(family, histogram.sum, suffix="_sum")
    add(family, total, suffix="_count")


def _add_checkpoints(add: _Add, record: RunRecord) -> None:
    add("lineside_checkpoints", len(record.checkpoints), f',state="{LOCAL}"')
    add("lineside_checkpoint_last_saved_step", record.saved_step)
    add("lineside_checkpoint_last_saved_timestamp_seconds", record.saved_at)
    add("lineside_checkpoint_interval_steps", _save_interval(record))
    archive = record.archive
    for state, (count, size) in archive.states().items():
        add("lineside_checkpoints", count, f',state="{state}"')
        add("lineside_checkpoint_bytes", size, f',state="{state}"')
    if archive.copies:
        add("lineside_checkpoint_last_archived_step", archive.last_step)
        add("lineside_checkpoint_last_archived_timestamp_seconds", archive.last_at)
        add("lineside_archive_sent_bytes_total", archive.sent)
        _add_histogram(add, "lineside_archive_seconds", archive.seconds)


def _add_ranks(add: _Add, record: RunRecord, attempt: AttemptState) -> None:
    for name, rank in record.ranks.items():
        stream = record.state.streams.get((name, rank.attempt))
        if rank.attempt != attempt.attempt or stream is None:
            continue
        label = f',rank="{name.removeprefix("rank")}"'
        for phase in PHASES:
            add("lineside_rank_phase", int(phase == stream.phase), f'{label},phase="{phase}"')
        add("lineside_rank_heartbeat_timestamp_seconds", rank.time, label)
        add("lineside_rank_hook_age_seconds", rank.hook_age, label)
        add("lineside_rank_resident_memory_bytes", stream.rss, label)
        add("lineside_rank_unsent_events", rank.unsent, label)


def _add_system(add: _Add, record: RunRecord, now: float) -> None:
    for (producer, name), value in record.system.items():
        metric = system_metric(name)
        if metric is not None and record.sampled_at.get(producer, 0.0) > now - SECONDS:
            host = escape(producer.removeprefix(SAMPLER_PREFIX))
            add(metric.family, value, f',host="{host}"{metric.labels}')


def _add_account(add: _Add, record: RunRecord) -> None:
    streams = [stream for stream in record.state.streams.values() if is_rank(stream.producer)]
    reported = sum(stream.reported for stream in streams)
    missing = sum(stream.missing for stream in streams)
    add("lineside_events_emitted_total", sum(stream.emitted for stream in streams))
    add("lineside_events_received_total", sum(stream.recorded for stream in streams))
    add("lineside_events_lost_total", reported, ',reason="dropped"')
    add("lineside_events_lost_total", missing - reported, ',reason="missing"')
    # A heartbeat that was sent before the end of its process may be read after it.
    record.hook_ns = max(record.hook_ns, sum(stream.hook_ns or 0 for stream in streams))
    record.hooks = max(record.hooks, sum(stream.hooks or 0 for stream in streams))
    add("lineside_hook_seconds", record.hook_ns / 1e9, suffix="_sum")
    add("lineside_hook_seconds", record.hooks, suffix="_count")


def escape(text: str) -> str:
    """``text`` as the value of a label."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def format_value(value: float) -> str:
    """A number as both formats write it."""
    if value != value:
        return "NaN"
    if value in (inf, -inf):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
