"""The loss account as text: events emitted, recorded and missing, and the cost of the hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from lineside.bus.wording import agree, plural
from lineside.dashboard.formatting import capitalize_first, duration, number

if TYPE_CHECKING:
    from lineside.dashboard.transit import Transit
    from lineside.store.history.records import Attempt, Run, StreamAccount

CLEAR, CAUTION = "clear", "caution"
SHIP_HINT = "`lineside ship` on the training machine sends the events left in its spool."


@dataclass(frozen=True)
class LossSummary:
    """``tone`` is clear or caution, ``headline`` the result, ``sentences`` the details."""

    tone: str
    headline: str
    sentences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HookCost:
    """Time that ``hooks`` hooks took: ``seconds`` of ``wall_seconds`` of training (0: unknown)."""

    hooks: int
    seconds: float
    wall_seconds: float

    @property
    def microseconds(self) -> float:
        """Microseconds for each hook."""
        return self.seconds / self.hooks * 1e6

    @property
    def share(self) -> str:
        """The share of the wall time: ``0.02 %``; empty if unknown."""
        return f"{100 * self.seconds / self.wall_seconds:.2g} %" if self.wall_seconds > 0 else ""

    def __str__(self) -> str:
        each = f"{number(self.microseconds)} µs"
        return f"{each} · {self.share}" if self.share else each


def summarize(
    run: Run, streams: Sequence[StreamAccount], transit: Transit | None = None
) -> LossSummary:
    """Summarize the accounts of the streams of a run.

    With ``transit`` also what is known, and what is not, of events that the store does not have;
    ``streams`` are then those of ``add_spool``.
    """
    if not streams:
        return LossSummary(CAUTION, "No event of this run has arrived yet.")
    emitted, recorded, gaps, lag, unreadable, left_out = (
        sum(getattr(stream, name) for stream in streams)
        for name in ("emitted", "recorded", "gaps", "lag", "unreadable", "left_out")
    )
    reported = sum(stream.reported_gaps for stream in streams)
    dropped, hook_errors, encode_failures = (
        sum(getattr(stream, name) or 0 for stream in streams)
        for name in ("dropped", "hook_errors", "encode_failures")
    )
    overdue = lag if not run.is_running else 0
    has_errors = hook_errors or encode_failures or unreadable or left_out
    is_behind = transit is not None and transit.recorder.is_behind
    unknown = unknown_since(run, transit)
    sentences = [
        *_loss_sentences(gaps, reported, dropped),
        *_lag_sentences(run, overdue, transit),
        *_error_sentences(hook_errors, encode_failures, unreadable),
        *_name_sentences(left_out),
        *_cost_sentences(hook_cost(streams, run.attempts)),
    ]
    if gaps or dropped:
        lost = max(gaps, dropped)
        headline = f"{plural(lost, 'event')} of {emitted:,} {agree(lost, 'is')} missing."
    elif overdue:
        has = agree(overdue, "has")
        headline = f"{plural(overdue, 'event')} of {emitted:,} {has} not arrived yet."
    elif has_errors:
        headline = capitalize_first(f"{_all_events(emitted)} recorded, with errors.")
    elif is_behind and transit is not None:
        amount = transit.recorder.amount
        headline = f"{plural(recorded, 'event')} recorded, and the recorder is {amount} behind."
    elif unknown:
        headline = f"{plural(recorded, 'event')} recorded; how many came {unknown} is not known."
    elif lag:
        headline = f"Nothing lost: {plural(recorded, 'event')} recorded, {lag:,} on the way."
    else:
        headline = f"Nothing lost: {_all_events(emitted)} recorded."
    caution = gaps or dropped or overdue or has_errors or is_behind or unknown
    return LossSummary(CAUTION if caution else CLEAR, headline, sentences)


def on_its_way(run: Run, lag: int, transit: Transit) -> str:
    """The number of events on their way, where they are, and what is not known."""
    unknown = unknown_since(run, transit)
    if lag and transit.in_spool:
        text = f"{lag:,}, {transit.in_spool:,} of them in the spool of this machine"
    else:
        text = f"{lag:,}" if lag or not unknown else ""
    return "; ".join(filter(None, (text, f"not known {unknown}" if unknown else "")))


def hook_cost(
    streams: Sequence[StreamAccount], attempts: Sequence[Attempt] = ()
) -> HookCost | None:
    """The cost of the hooks of ``streams``; None if no hook is counted yet."""
    counted = [stream for stream in streams if stream.hooks and stream.hook_ns is not None]
    if not counted:
        return None
    hooks = sum(stream.hooks or 0 for stream in counted)
    spent = sum(stream.hook_ns or 0 for stream in counted) / 1e9
    return HookCost(hooks, spent, sum(_seconds(stream, attempts) for stream in counted))


def _all_events(count: int) -> str:
    return "1 event is" if count == 1 else f"all {plural(count, 'event')} are"


def _loss_sentences(gaps: int, reported: int, dropped: int) -> list[str]:
    """What became of the missing events: each is dropped, not supplied, or gone afterwards."""
    sentences = []
    unsupplied = max(reported - dropped, 0)
    gone = gaps - max(reported, dropped)
    if dropped:
        sentences.append(
            f"{plural(dropped, 'event')} dropped because the spool or its disk was full, or "
            "because files of the spool were deleted. Step events are dropped first, lifecycle "
            "events last; gap events on the timeline list them."
        )
    if unsupplied:
        sentences.append(
            f"{plural(unsupplied, 'event')} reported missing by {agree(unsupplied, 'its')} "
            "producer: the spool is damaged, the machine stopped before they were on its disk, or "
            "the producer left them out."
        )
    if gone > 0:
        sentences.append(
            f"{plural(gone, 'event')} lost from the journal: expired before the recorder came, or "
            "the journal is damaged."
        )
    return sentences


def unknown_since(run: Run, transit: Transit | None) -> str:
    """``after 12:03:55 UTC`` if nothing is known of events after that; else empty."""
    if transit is None or not (run.attempts and run.accepts_commands):
        return ""
    is_here = any(stream.attempt == run.attempts[-1].attempt for stream in transit.spool)
    if is_here or (run.is_running and transit.recorder.is_known):
        return ""
    return f"after {run.updated_at:%H:%M:%S} UTC"


def _lag_sentences(run: Run, overdue: int, transit: Transit | None) -> list[str]:
    sentences = []
    in_spool = transit.in_spool if transit else 0
    # A training that sends its events has some there at any time.
    if transit is not None and in_spool and (overdue or not transit.recorder.is_known):
        sentences.append(
            f"{plural(in_spool, 'event')} {agree(in_spool, 'waits')} in the spool of this machine. "
            "`lineside up` and `lineside ship` send them."
        )
    elif overdue:
        ended = "is disconnected" if run.accepts_commands else "has ended"
        sentences.append(
            f"The run {ended}, but {plural(overdue, 'event')} did not arrive. {SHIP_HINT}"
        )
    if transit is not None and transit.recorder.is_behind:
        sentences.append(
            f"{transit.recorder} Events of all runs count; newer ones are not shown here yet."
        )
    elif transit is not None and unknown_since(run, transit):
        why = transit.recorder.problem or "no message has come since."
        sentences.append(f"What the training published since then is not known: {why}")
    return sentences


def _error_sentences(hook_errors: int, encode_failures: int, unreadable: int) -> list[str]:
    sentences = []
    if hook_errors:
        sentences.append(
            f"{plural(hook_errors, 'hook')} failed inside Lineside. Training was not affected, "
            "but the events of these hooks are missing."
        )
    if encode_failures:
        sentences.append(
            f"{plural(encode_failures, 'event')} lost a part: values that cannot be encoded or "
            "were too many, which a remark replaces, or a step or epoch that is no number."
        )
    if unreadable:
        sentences.append(
            f"{plural(unreadable, 'event')} did not have the form of {agree(unreadable, 'its')} "
            "kind; the timeline marks each."
        )
    return sentences


def _name_sentences(left_out: int) -> list[str]:
    if not left_out:
        return []
    # The command line imports this module also without the extra that the store needs.
    from lineside.store.limits import MAX_SERIES, MAX_VALUE_NAMES

    return [
        f"{plural(left_out, 'logged value')} {agree(left_out, 'has')} no chart: a process may have "
        f"{MAX_SERIES:,} metrics and {MAX_VALUE_NAMES:,} texts. The events have all of them. Log "
        "under names that do not change from step to step."
    ]


def _cost_sentences(cost: HookCost | None) -> list[str]:
    if cost is None:
        return []
    share = f", {cost.share} of {duration(cost.wall_seconds)}" if cost.share else ""
    return [
        f"The hooks cost training {number(cost.microseconds)} µs each{share}"
        f" ({plural(cost.hooks, 'hook')})."
    ]


def _seconds(stream: StreamAccount, attempts: Sequence[Attempt]) -> float:
    for attempt in attempts:
        if attempt.attempt == stream.attempt:
            end: datetime = attempt.ended_at or stream.last_seen
            return (end - attempt.started_at).total_seconds()
    return 0.0
