"""Makes the targets of notifications from their options in a configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from lineside.subscribers.watchdog.notification.apprise_target import AppriseService
from lineside.subscribers.watchdog.notification.target import AlertFilter, Sender, Target
from lineside.subscribers.watchdog.notification.webhook import Webhook


@dataclass(frozen=True)
class TargetOptions:
    """An Apprise URL, or the address of a webhook with its secret."""

    url: str = field(default="", repr=False)
    webhook: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    name: str = ""
    filter: AlertFilter = field(default_factory=AlertFilter)


class TargetError(ValueError):
    """The options at ``index`` make no target; ``str`` is what was expected."""

    def __init__(self, index: int, expected: str) -> None:
        super().__init__(expected)
        self.index = index


def make_targets(options: Sequence[TargetOptions]) -> list[Target]:
    """The target of each of ``options``, each with a name of its own.

    The queue of a target belongs to its name, or without one to its address.

    Raises:
        TargetError: an address cannot be used.
        MissingExtra: there is an Apprise URL, and the extra ``alerts`` is not installed.
    """
    targets: list[Target] = []
    ids: set[str] = set()
    names: set[str] = set()
    for index, one in enumerate(options):
        try:
            sender: Sender = (
                Webhook(one.webhook, one.secret) if one.webhook else AppriseService(one.url)
            )
        except ValueError as error:
            raise TargetError(index, str(error)) from None
        address = hashlib.sha256(f"{one.url} {one.webhook}".encode()).hexdigest()[:16]
        target_id = _unique(one.name or address, ids)
        name = _unique(one.name or sender.name, names)
        targets.append(Target(target_id, name, sender, one.filter))
    return targets


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} {number}"
    taken.add(unique)
    return unique
