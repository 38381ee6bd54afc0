"""Events on their way from a training to the store: in a spool, and in the broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from lineside.bus.protocol.events import Stream
from lineside.bus.wording import plural
from lineside.dashboard.formatting import duration

if TYPE_CHECKING:
    from lineside.store.history.records import StreamAccount

LAG_SECONDS = 2.0
"""A recorder that is less behind keeps up: it collects events before it records them."""
SpoolReader = Callable[[str], Mapping[Stream, "tuple[int, int]"]]
"""For each stream of a run in this machine's spool, how many events a broker has confirmed, and how
many it has not. It raises no error: streams that cannot be read are left out."""


@dataclass(frozen=True)
class RecorderLag:
    """How far the store is behind the broker: ``events`` that wait, the first for ``seconds``.

    ``events`` is None if their number is not known. ``problem`` states why nothing is known.
    """

    events: int | None = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def is_known(self) -> bool:
        return not self.problem

    @property
    def is_behind(self) -> bool:
        """Whether the recorder is known not to keep up."""
        return self.is_known and self.seconds >= LAG_SECONDS

    @property
    def amount(self) -> str:
        """``58s and 250,000 events``; only the time if the number is not known."""
        events = "" if self.events is None else f" and {plural(self.events, 'event')}"
        return duration(self.seconds) + events

    def __str__(self) -> str:
        if self.problem:
            return f"How far the recorder is behind is not known: {self.problem}"
        if self.is_behind:
            return f"The recorder is {self.amount} behind the broker."
        return "The recorder keeps up."


@dataclass(frozen=True)
class Transit:
    """What is known of a run's events on their way; ``spool`` as a ``SpoolReader`` returns it."""

    recorder: RecorderLag
    spool: Mapping[Stream, tuple[int, int]] = field(default_factory=dict)

    @property
    def in_spool(self) -> int:
        """Events in this machine's spool that no broker has confirmed."""
        return sum(left for _, left in self.spool.values())


def add_spool(accounts: Sequence[StreamAccount], transit: Transit) -> list[StreamAccount]:
    """``accounts`` with the events that the spool knows of and the recorder does not."""
    counts = {stream[1:]: acked + left for stream, (acked, left) in transit.spool.items()}
    found = [
        _with_emitted(account, counts.pop((account.producer, account.attempt), 0))
        for account in accounts
    ]
    return found + [_unrecorded(*names, count) for names, count in counts.items() if count]


def _with_emitted(account: StreamAccount, emitted: int) -> StreamAccount:
    emitted = max(account.emitted, emitted)
    return replace(account, emitted=emitted, lag=emitted - account.recorded - account.gaps)


def _unrecorded(producer: str, attempt: str, count: int) -> StreamAccount:
    from lineside.store.history.records import StreamAccount

    return StreamAccount(
        producer=producer,
        attempt=attempt,
        emitted=count,
        recorded=0,
        gaps=0,
        reported_gaps=0,
        lag=count,
        unreadable=0,
        left_out=0,
        dropped=None,
        hook_errors=None,
        encode_failures=None,
        hook_ns=None,
        hooks=None,
        rss=None,
        phase=None,
        step=None,
        last_seen=datetime.now(timezone.utc),
    )
