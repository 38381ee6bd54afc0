"""The loss account in words: what was emitted, what is recorded, what is missing, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lineside.dashboard.words import duration, number, plural
from lineside.store.history.records import Attempt, Run, StreamAccount

CLEAR, CAUTION = "clear", "caution"
SHIP = "`lineside ship` on the training machine sends what is still in its spool."


@dataclass(frozen=True)
class Verdict:
    """``tone`` is clear or caution; ``headline`` says it in a sentence, ``sentences`` the rest."""

    tone: str
    headline: str
    sentences: list[str] = field(default_factory=list)


def verdict(run: Run, streams: Sequence[StreamAccount]) -> Verdict:
    """What the streams' accounts of a run come to."""
    if not streams:
        return Verdict(CAUTION, "Nothing has been heard from this run yet.")
    emitted, recorded, gaps, lag, unreadable = (
        sum(getattr(stream, name) for stream in streams)
        for name in ("emitted", "recorded", "gaps", "lag", "unreadable")
    )
    dropped, hook_errors, encode_failures = (
        sum(getattr(stream, name) or 0 for stream in streams)
        for name in ("dropped", "hook_errors", "encode_failures")
    )
    going_on = run.going_on
    overdue = lag if not going_on else 0
    odd = hook_errors or encode_failures or unreadable
    sentences = [
        *_missing(gaps, dropped),
        *_on_the_way(lag, going_on),
        *_odd(hook_errors, encode_failures, unreadable),
        *_cost(run, streams),
    ]
    if gaps or dropped:
        headline = f"{plural(max(gaps, dropped), 'event')} of {emitted:,} are missing."
    elif overdue:
        headline = f"{plural(overdue, 'event')} of {emitted:,} have not come yet."
    elif odd:
        headline = f"All {plural(emitted, 'event')} are recorded, but not everything went well."
    elif lag:
        headline = f"Nothing lost: {plural(recorded, 'event')} recorded, {lag:,} on the way."
    else:
        headline = f"Nothing lost: all {plural(emitted, 'event')} are recorded."
    caution = gaps or dropped or overdue or odd
    return Verdict(CAUTION if caution else CLEAR, headline, sentences)


def cost(stream: StreamAccount, attempts: Sequence[Attempt]) -> str | None:
    """What the hooks of one stream cost: ``4.1 µs · 0.02 %`` a hook and of its time."""
    if not stream.hooks or stream.hook_ns is None:
        return None
    each = f"{number(stream.hook_ns / stream.hooks / 1000)} µs"
    seconds = _seconds(stream, attempts)
    return f"{each} · {_percent(stream.hook_ns, seconds)}" if seconds > 0 else each


def _missing(gaps: int, dropped: int) -> list[str]:
    said = []
    if dropped:
        said.append(
            f"{plural(dropped, 'event')} found the spool or its disk full. Step events go first "
            "then, lifecycle and evaluation last; the gap events on the timeline say which."
        )
    if gaps > dropped:
        said.append(
            f"{plural(gaps - dropped, 'event')} went missing on the way: damaged on disk, or "
            "expired from the journal before they were recorded."
        )
    return said


def _on_the_way(lag: int, going_on: bool) -> list[str]:
    if not lag or going_on:
        return []
    return [f"The run has ended, yet {plural(lag, 'event')} it emitted did not arrive. {SHIP}"]


def _odd(hook_errors: int, encode_failures: int, unreadable: int) -> list[str]:
    said = []
    if hook_errors:
        said.append(
            f"{plural(hook_errors, 'hook')} failed inside Lineside. Training was not disturbed, "
            "but what they would have said is missing."
        )
    if encode_failures:
        said.append(f"{plural(encode_failures, 'event')} held what could not be encoded as it was.")
    if unreadable:
        said.append(
            f"{plural(unreadable, 'event')} were not what their kind promises; "
            "the timeline marks them."
        )
    return said


def _cost(run: Run, streams: Sequence[StreamAccount]) -> list[str]:
    counted = [stream for stream in streams if stream.hooks and stream.hook_ns is not None]
    if not counted:
        return []
    hooks = sum(stream.hooks or 0 for stream in counted)
    spent = sum(stream.hook_ns or 0 for stream in counted)
    seconds = sum(_seconds(stream, run.attempts) for stream in counted)
    share = f", {_percent(spent, seconds)} of {duration(seconds)}" if seconds > 0 else ""
    return [
        f"The hooks cost training {number(spent / hooks / 1000)} µs each"
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
