"""Where rules would have acted on a run that is recorded already."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Event, Stream
from lineside.store.history.reads import History
from lineside.store.history.records import EventRow
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.course import Firing
from lineside.subscribers.stopper.memory import Memory
from lineside.subscribers.stopper.rules import Rule
from lineside.subscribers.stopper.watch import RANK_0, Watch

_STOPS = (rules.STOP, rules.SAVE_AND_STOP)


def backtest(history: History, run: str, given: Sequence[Rule]) -> list[Firing]:
    """When each rule would have acted on the run of this id, in the order of its events.

    Each is looked at as if it were alone, and of one that stops only the first time counts.

    Raises:
        RunNotFound: there is no such run.
    """
    found: dict[str, list[Firing]] = {rule.name: [] for rule in given}
    watches = [Watch([rule], Memory()) for rule in given]
    for stream, event in _events(history, run):
        for watch in watches:
            for firing in watch.take(stream, event):
                earlier = found[firing.rule.name]
                if not any(one.action in _STOPS for one in earlier):
                    earlier.append(firing)
    return sorted(chain.from_iterable(found.values()), key=lambda firing: firing.time)


def _events(history: History, run: str) -> Iterator[tuple[Stream, Event]]:
    """What was said by and about a run, the ends of its steps where they belong.

    These have no numbers of their own any more; any from the gap that they left will do.
    """
    steps = _Steps(history, run)
    seqs: Counter[Stream] = Counter()

    def ended(stream: Stream, step: int | None) -> Iterator[tuple[Stream, Event]]:
        for number, time in steps.until(stream.attempt, step):
            seqs[stream] += 1
            yield stream, Event(seqs[stream], time, 0, "step_end", number)

    for row in history.every_event(run):
        if row.producer in (RANK_0, commands.PRODUCER):
            stream = Stream(run, row.producer, row.attempt)
            if row.producer == RANK_0:
                yield from ended(stream, row.step)
            seqs[stream] = row.seq
            yield stream, _event(row)
    for attempt in steps.attempts:
        yield from ended(Stream(run, RANK_0, attempt), None)


class _Steps:
    """The ends of a run's steps, which the history keeps apart from its other events."""

    def __init__(self, history: History, run: str) -> None:
        self._ends: dict[str, tuple[array[int], array[float]]] = {}
        self._given: Counter[str] = Counter()
        for row in history.every_timing(run):
            if row.producer == RANK_0 and row.compute is not None:
                steps, times = self._ends.setdefault(row.attempt, (array("q"), array("d")))
                steps.append(row.step)
                times.append(row.time)

    @property
    def attempts(self) -> list[str]:
        return list(self._ends)

    def until(self, attempt: str, step: int | None) -> Iterator[tuple[int, float]]:
        """Step and time of those up to ``step``, or all, that were not given yet."""
        steps, times = self._ends.get(attempt, ((), ()))
        while (n := self._given[attempt]) < len(steps) and (step is None or steps[n] <= step):
            self._given[attempt] += 1
            yield steps[n], times[n]


def _event(row: EventRow) -> Event:
    return Event(
        row.seq, row.time.timestamp(), 0, row.kind, row.step, row.epoch, row.control, row.data
    )
