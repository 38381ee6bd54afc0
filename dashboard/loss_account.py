"""The loss account in words: what was emitted, what is recorded, what is missing, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lineside.dashboard.formatting import duration, number, plural
from lineside.store.history.records import Attempt, Run, StreamAccount

CLEAR, CAUTION = "clear", "caution"
SHIP_HINT = "`lineside ship` on the training machine sends what is still in its spool."


@dataclass(frozen=True)
class LossSummary:
    """``tone`` is clear or caution; ``headline`` says it in a sentence, ``sentences`` the rest."""

    tone: str
    headline: str
    sentences: list[str] = field(default_factory=list)


def summarize(run: Run, streams: Sequence[StreamAccount]) -> LossSummary:
    """What the streams' accounts of a run come to."""
    if not streams:
        return LossSummary(CAUTION, "Nothing has been heard from this run yet.")
    emitted, recorded, gaps, lag, unreadable = (
        sum(getattr(stream, name) for stream in streams)
        for name in ("emitted", "recorded", "gaps", "lag", "unreadable")
    )
    dropped, hook_errors, encode_failures = (
        sum(getattr(stream, name) or 0 for stream in streams)
        for name in ("dropped", "hook_errors", "encode_failures")
    )
    is_running = run.is_running
    overdue = lag if not is_running else 0
    has_errors = hook_errors or encode_failures or unreadable
    sentences = [
        *_loss_sentences(gaps, dropped),
        *_lag_sentences(lag, is_running),
        *_error_sentences(hook_errors, encode_failures, unreadable),
        *_cost_sentences(run, streams),
    ]
    if gaps or dropped:
        headline = f"{plural(max(gaps, dropped), 'event')} of {emitted:,} are missing."
    elif overdue:
        headline = f"{plural(overdue, 'event')} of {emitted:,} have not come yet."
    elif has_errors:
        headline = f"All {plural(emitted, 'event')} are recorded, but not everything went well."
    elif lag:
        headline = f"Nothing lost: {plural(recorded, 'event')} recorded, {lag:,} on the way."
    else:
        headline = f"Nothing lost: all {plural(emitted, 'event')} are recorded."
    caution = gaps or dropped or overdue or has_errors
    return LossSummary(CAUTION if caution else CLEAR, headline, sentences)


def hook_cost(stream: StreamAccount, attempts: Sequence[Attempt]) -> str | None:
    """What the hooks of one stream cost: ``4.1 µs · 0.02 %`` a hook and of its time."""
    if not stream.hooks or stream.hook_ns is None:
        return None
    each = f"{number(stream.hook_ns / stream.hooks / 1000)} µs"
    seconds = _seconds(stream, attempts)
    return f"{each} · {_percent(stream.hook_ns, seconds)}" if seconds > 0 else each


def _loss_sentences(gaps: int, dropped: int) -> list[str]:
    sentences = []
    if dropped:
        sentences.append(
            f"{plural(dropped, 'event')} found the spool or its disk full. Step events go first "
            "then, lifecycle and evaluation last; the gap events on the timeline say which."
        )
    if gaps > dropped:
        sentences.append(
            f"{plural(gaps - dropped, 'event')} went missing on the way: damaged on disk, or "
            "expired from the journal before they were recorded."
        )
    return sentences


def _lag_sentences(lag: int, is_running: bool) -> list[str]:
    if not lag or is_running:
        return []
    return [f"The run has ended, yet {plural(lag, 'event')} it emitted did not arrive. {SHIP_HINT}"]


def _error_sentences(hook_errors: int, encode_failures: int, unreadable: int) -> list[str]:
    sentences = []
    if hook_errors:
        sentences.append(
            f"{plural(hook_errors, 'hook')} failed inside Lineside. Training was not disturbed, "
            "but what they would have said is missing."
        )
    if encode_failures:
        sentences.append(
            f"{plural(encode_failures, 'event')} held what could not be encoded as it was."
        )
    if unreadable:
        sentences.append(
            f"{plural(unreadable, 'event')} were not what their kind promises; "
            "the timeline marks them."
        )
    return sentences


def _cost_sentences(run: Run, streams: Sequence[StreamAccount]) -> list[str]:
    counted = [stream for stream in streams if stream.hooks and stream.hook_ns is not None]
    if not counted:
        return []
    hooks = sum(stream.hooks or 0 for stream in counted)
    spent_ns = sum(stream.hook_ns or 0 for stream in counted)
    seconds = sum(_seconds(stream, run.attempts) for stream in counted)
    share = f", {_percent(spent_ns, seconds)} of {duration(seconds)}" if seconds > 0 else ""
    return [
        f"The hooks cost training {number(spent_ns / hooks / 1000)} µs each"
        f"{share} ({plural(hooks, 'hook')})."
    ]


def _percent(spent_ns: int, seconds: float) -> str:
    return f"{100 * spent_ns / 1e9 / seconds:.2g} %"


def _seconds(stream: StreamAccount, attempts: Sequence[Attempt]) -> float:
    for attempt in attempts:
        if attempt.attempt == stream.attempt:
            end: datetime = attempt.ended_at or stream.last_seen
            return (end - attempt.started_at).total_seconds()
    return 0.0
