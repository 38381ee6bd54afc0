"""Finds where rules would have acted on a recorded run."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.store.database.tables import TIMING
from lineside.store.history.history import History
from lineside.store.history.records import EventRow
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.attempt_state import Trigger
from lineside.subscribers.stopper.rule_engine import RuleEngine
from lineside.subscribers.stopper.rules import Rule
from lineside.subscribers.stopper.state_store import StateStore

_STOPS = (rules.STOP, rules.SAVE_AND_STOP)


def backtest(history: History, run: str, candidates: Sequence[Rule]) -> list[Trigger]:
    """The triggers that each rule would have had on the run of this id, in order of their time.

    Each rule is applied as if it were alone; a rule that stops the run acts once.

    Raises:
        RunNotFound: there is no such run.
    """
    found: dict[str, list[Trigger]] = {rule.name: [] for rule in candidates}
    rule_engines = [RuleEngine([rule], StateStore()) for rule in candidates]
    for stream, event in _events(history, run):
        for rule_engine in rule_engines:
            for trigger in rule_engine.handle(stream, event):
                earlier = found[trigger.rule.name]
                if not any(one.action in _STOPS for one in earlier):
                    earlier.append(trigger)
    return sorted(chain.from_iterable(found.values()), key=lambda trigger: trigger.time)


def _events(history: History, run: str) -> Iterator[tuple[Stream, Event]]:
    """Yield the events of a run and its commands, with step ends in their places.

    The store keeps step ends as timings, without seqs: they get seqs from the gap that they left.
    """
    steps = _StepEnds(history, run)
    seqs: Counter[Stream] = Counter()

    def step_ends_until(stream: Stream, step: int | None) -> Iterator[tuple[Stream, Event]]:
        for number, time in steps.up_to(stream.attempt, step):
            seqs[stream] += 1
            yield stream, Event(seqs[stream], time, 0, "step_end", number)

    for row in history.iter_events(run):
        if row.producer in (RANK_0, commands.CONTROL_PRODUCER):
            stream = Stream(run, row.producer, row.attempt)
            if row.producer == RANK_0:
                yield from step_ends_until(stream, row.step)
            seqs[stream] = row.seq
            yield stream, _to_event(row)
    for attempt in steps.attempts:
        yield from step_ends_until(Stream(run, RANK_0, attempt), None)


class _StepEnds:
    """The step ends of a run, which the history stores as timings."""

    def __init__(self, history: History, run: str) -> None:
        self._ends: dict[str, tuple[array[int], array[float]]] = {}
        self._yielded: Counter[str] = Counter()
        for row in history.iter_points(run, kind=TIMING, names=["compute"]):
            if row.producer == RANK_0:
                steps, times = self._ends.setdefault(row.attempt, (array("q"), array("d")))
                steps.append(row.step)
                times.append(row.time.timestamp())

    @property
    def attempts(self) -> list[str]:
        return list(self._ends)

    def up_to(self, attempt: str, step: int | None) -> Iterator[tuple[int, float]]:
        """Yield step and time of further step ends, up to ``step`` or all."""
        steps, times = self._ends.get(attempt, ((), ()))
        while (n := self._yielded[attempt]) < len(steps) and (step is None or steps[n] <= step):
            self._yielded[attempt] += 1
            yield steps[n], times[n]


def _to_event(row: EventRow) -> Event:
    return Event(
        row.seq, row.time.timestamp(), 0, row.kind, row.step, row.epoch, row.control, row.data
    )
