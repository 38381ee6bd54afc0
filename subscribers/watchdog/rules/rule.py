"""The base of every rule: its options, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lineside.bus.protocol.patterns import matches
from lineside.subscribers.watchdog.alert import Severity
from lineside.subscribers.watchdog.observation import RunObservation, StackObservation


@dataclass(frozen=True)
class Finding:
    """What holds now: an alert is open while a rule returns it.

    ``severity`` takes the place of the rule's own; ``details`` are added to those of the run.
    """

    summary: str
    action: str
    subject: str = ""
    severity: Severity | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Undecided:
    """The rule cannot judge ``subject`` now: its alert stays as it is."""

    subject: str


Findings = Iterable[Finding | Undecided] | None
"""None: the rule cannot judge anything now."""


def severity(default: Severity) -> Any:
    """The option of a rule's severity."""
    return Field(default=default, description="Severity of its alerts.")


def hold(seconds: float) -> Any:
    """The option of the time for which something holds until the alert opens."""
    return Field(
        default=seconds, alias="for", ge=0, description="Seconds it holds before an alert opens."
    )


class Rule(BaseModel):
    """A rule with its options. ``doc`` completes "An alert is open while"."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: ClassVar[str]
    doc: ClassVar[str]

    enabled: bool = Field(default=True, description="Apply the rule.")
    severity: Severity = severity("warning")
    for_: float = hold(0)


class RunRule(Rule):
    """A rule about one run."""

    runs: list[str] = Field(
        default=[], description="Only runs with such an id or name; `*` fits any text."
    )
    projects: list[str] = Field(
        default=[], description="Only runs of such a project; `*` fits any text."
    )
    judges_silence: ClassVar[bool] = False
    """Whether the silence of a broker, or of all in a sleep, would be taken for that of the run."""

    def applies_to(self, run: RunObservation) -> bool:
        """Whether the options choose this run."""
        names = (run.run.id, run.run.name)
        return (
            not self.runs or any(matches(name, one) for name in names for one in self.runs)
        ) and (not self.projects or any(matches(run.run.project, one) for one in self.projects))

    def judge(self, run: RunObservation) -> Findings:
        """What holds of ``run`` now."""
        raise NotImplementedError


class StackRule(Rule):
    """A rule about Lineside itself, or about machines."""

    def judge(self, stack: StackObservation) -> Findings:
        """What holds of ``stack`` now."""
        raise NotImplementedError
