"""Makes what the watchdog sends notifications to from the section ``alerts`` of a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lineside.bus.protocol.patterns import matches
from lineside.bus.wording import did_you_mean
from lineside.bus.yaml_document import DocumentError, Key, Problem, YamlDocument
from lineside.subscribers.watchdog.notification.heartbeat import MAX_SILENCE
from lineside.subscribers.watchdog.notification.notifications import NotificationOptions
from lineside.subscribers.watchdog.notification.options import (
    TargetError,
    TargetOptions,
    make_targets,
)
from lineside.subscribers.watchdog.notification.target import AlertFilter
from lineside.subscribers.watchdog.rules.registry import RuleOptions

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration


def notification_options(configuration: StackConfiguration) -> NotificationOptions:
    """What the watchdog sends notifications to, and the heartbeat.

    Raises:
        DocumentError: an Apprise URL cannot be used, or a target is of a rule that does not exist.
        MissingExtra: there is an Apprise URL, and the extra ``alerts`` is not installed.
    """
    alerts = configuration.values.alerts
    options = [
        TargetOptions(
            url=one.url,
            webhook=one.webhook.url if one.webhook else "",
            secret=one.webhook.secret if one.webhook else "",
            name=one.name,
            filter=AlertFilter(one.severity, one.rules, one.runs, one.projects),
        )
        for one in alerts.notify
    ]
    try:
        targets = make_targets(options)
    except TargetError as error:
        if configuration.document is None:
            raise
        key: Key = ("alerts", "notify", error.index, "url")
        raise DocumentError([configuration.document.invalid(key, str(error))]) from None
    if configuration.document is not None:
        faults = list(_unknown_rules(configuration.document, configuration))
        if faults:
            raise DocumentError(faults)
    return NotificationOptions(
        targets,
        alerts.page,
        alerts.heartbeat.url,
        alerts.heartbeat.interval,
        max(MAX_SILENCE, 3 * alerts.interval),
    )


def _unknown_rules(document: YamlDocument, configuration: StackConfiguration) -> Iterator[Problem]:
    """A target of a rule that does not exist would get nothing."""
    known = [*RuleOptions.model_fields, *(rule.name for rule in configuration.rules)]
    for index, target in enumerate(configuration.values.alerts.notify):
        for place, pattern in enumerate(target.rules):
            if not any(matches(name, pattern) for name in known):
                key: Key = ("alerts", "notify", index, "rules", place)
                expected = f"the name of a rule{did_you_mean(pattern, known)}"
                yield document.invalid(key, expected)
