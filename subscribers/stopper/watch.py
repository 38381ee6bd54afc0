"""Follows runs by their events, in the order of the journal, and says which rules act."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.stopper.course import Course, Firing
from lineside.subscribers.stopper.memory import Memory
from lineside.subscribers.stopper.rules import Rule

RANK_0 = "rank0"
_STANDING = frozenset({"evaluate", "save"})  # after these a training may be resumed


class Watch:
    """What ``rules`` say of the runs whose events it is given; any event a second time is nothing.

    The same events give the same firings, whoever was restarted in between.
    """

    def __init__(self, rules: Sequence[Rule], memory: Memory) -> None:
        self._rules = rules
        self._memory = memory
        self._courses: dict[tuple[str, str], Course] = {}
        self._changed: set[tuple[str, str]] = set()
        self._fitting: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def take(self, stream: Stream, event: Event) -> list[Firing]:
        """The rules that act at this event."""
        if stream.producer == commands.PRODUCER:
            self._hear(stream, event)
            return []
        if stream.producer != RANK_0:
            return []
        course = self.course(stream)
        if event.seq < course.next_seq:
            return []
        course.next_seq = event.seq + 1
        self._changed.add((stream.run, stream.attempt))
        if event.kind == "run_start":
            self._begin(course, event.data or {})
        firings = list(course.take(event, self._fit(course)))
        if event.kind in _STANDING and course.is_training:
            self._memory.keep_standing(*stream[::2], event.step, course.standing())
        return firings

    def course(self, stream: Stream) -> Course:
        """What is known of the attempt that a stream belongs to."""
        key = stream.run, stream.attempt
        known = self._courses.get(key)
        if known is None:
            kept = self._memory.course(*key)
            known = self._courses[key] = Course(**kept) if kept else Course(*key)
        return known

    def commit(self, journal: str | None, offset: int) -> None:
        """Remember all of it, as of this offset."""
        for key in self._changed:
            course = self._courses[key]
            self._memory.keep_course(*key, course.data(), course.time or time.time())
        self._memory.commit(journal, offset)
        for key in self._changed:
            if not self._courses[key].is_training:
                del self._courses[key]
        self._changed.clear()

    def _begin(self, course: Course, data: Mapping[str, Any]) -> None:
        """A new attempt stands where the one stood that it goes on from."""
        others = [Course(**kept) for kept in self._memory.courses(course.run)]
        others += [one for one in self._courses.values() if one.run == course.run]
        course.spent = max((one.seconds for one in others if one is not course), default=0.0)
        resumed = data.get("resumed_from")
        if not isinstance(resumed, Mapping) or not isinstance(resumed.get("step"), int):
            return
        run, attempt = resumed.get("run"), resumed.get("attempt")
        standing = self._memory.standing(str(run), str(attempt), resumed["step"])
        if standing is not None:
            course.resume(standing)

    def _hear(self, stream: Stream, event: Event) -> None:
        """The learning rate is what somebody has set it to."""
        data = event.data or {}
        if event.kind == commands.APPLIED and isinstance(data.get("to"), (int, float)):
            self.course(stream).rate = data["to"]
            self._changed.add((stream.run, stream.attempt))

    def _fit(self, course: Course) -> tuple[Rule, ...]:
        key = course.run, course.name, course.project
        if key not in self._fitting:
            self._fitting[key] = tuple(rule for rule in self._rules if rule.fits(*key))
        return self._fitting[key]
