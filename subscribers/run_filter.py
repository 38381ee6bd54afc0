"""Chooses the runs that a subscriber handles."""

from __future__ import annotations

from collections.abc import Sequence

from lineside.bus.protocol.patterns import matches
from lineside.subscribers.context import RunContext


class RunFilter:
    """Runs whose id or name fits one of ``runs``, and whose project fits one of ``projects``.

    ``*`` stands for any characters; an empty list fits everything. Events before a ``run_start``
    belong to no project and have no name.
    """

    def __init__(self, runs: Sequence[str] = (), projects: Sequence[str] = ()) -> None:
        self._runs = tuple(runs)
        self._projects = tuple(projects)

    def matches(self, run: RunContext) -> bool:
        """Whether the subscriber handles ``run``."""
        names = (run.id, run.name)
        return (
            not self._runs or any(matches(name, one) for name in names for one in self._runs)
        ) and (not self._projects or any(matches(run.project, one) for one in self._projects))
