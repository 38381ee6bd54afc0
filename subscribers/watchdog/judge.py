"""Applies the rules to what was observed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from lineside.subscribers.watchdog.alert import AlertKey
from lineside.subscribers.watchdog.engine import Found, Judgement, Subject
from lineside.subscribers.watchdog.observation import RunObservation, StackObservation
from lineside.subscribers.watchdog.rules.rule import (
    Finding,
    Findings,
    Rule,
    RunRule,
    StackRule,
    Undecided,
)
from lineside.subscribers.watchdog.run_details import details
from lineside.subscribers.watchdog.run_observer import Responses, RunChanges

log = logging.getLogger("lineside")


class Judge:
    """Applies ``rules``. One that raises cannot judge, and is logged once."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._run_rules = [rule for rule in rules if isinstance(rule, RunRule)]
        self._stack_rules = [rule for rule in rules if isinstance(rule, StackRule)]
        self._names = {rule.name for rule in rules}
        self._failed: set[str] = set()

    def judge(
        self, stack: StackObservation, changes: RunChanges, responses: Responses
    ) -> Judgement:
        """What the rules find, and what they judged."""
        found: list[Found] = []
        judged: set[tuple[str, str]] = set()
        undecided: set[AlertKey] = set()
        for rule in self._stack_rules:
            findings = self._try(rule, "Lineside", lambda rule=rule: rule.judge(stack))  # type: ignore[misc]
            if findings is not None:
                judged.add(("", rule.name))
                for one in findings:
                    if isinstance(one, Undecided):
                        undecided.add(AlertKey("", rule.name, one.subject))
                    else:
                        found.append(_found(rule, one, Subject()))
        for run in changes.judged:
            subject: Subject | None = None
            for run_rule in self._run_rules:
                findings = self._of_run(run_rule, run, stack)
                if findings is None:
                    continue
                judged.add((run.run.id, run_rule.name))
                for one in findings:
                    if isinstance(one, Undecided):
                        undecided.add(AlertKey(run.run.id, run_rule.name, one.subject))
                    else:
                        subject = subject or _subject(run)
                        found.append(_found(run_rule, one, subject))
        names, statuses = self._names, {one.run.id: one.run.status for one in changes.judged}

        def is_judged(key: AlertKey) -> bool:
            is_decided = (key.run, key.rule) in judged and key not in undecided
            return is_decided or key.rule not in names

        return Judgement(
            found,
            is_judged,
            changes.gone,
            statuses,
            responses.is_muted,
            responses.is_acknowledged,
        )

    def _of_run(
        self, rule: RunRule, run: RunObservation, stack: StackObservation
    ) -> Sequence[Finding | Undecided] | None:
        if not rule.applies_to(run):
            return []
        if rule.judges_silence and not stack.can_judge_silence:
            return None
        return self._try(rule, run.run.id, lambda: rule.judge(run))

    def _try(
        self, rule: Rule, subject: str, judge: Callable[[], Findings]
    ) -> Sequence[Finding | Undecided] | None:
        try:
            findings = judge()
            return None if findings is None else list(findings)
        except Exception:
            if rule.name not in self._failed:
                self._failed.add(rule.name)
                log.exception("watchdog: the rule %s cannot judge %s", rule.name, subject)
            return None


def _found(rule: Rule, finding: Finding, subject: Subject) -> Found:
    return Found(rule.name, rule.severity, rule.for_, finding, subject)


def _subject(run: RunObservation) -> Subject:
    return Subject(run.run.id, run.run.name, run.run.project, details(run))
