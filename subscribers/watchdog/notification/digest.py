"""Several notifications as one message for a person: a machine that ends takes many runs along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lineside.bus.terminal_text import printable
from lineside.subscribers.watchdog.alert import SEVERITIES
from lineside.subscribers.watchdog.notification.message import Message


def highest_severity(messages: Sequence[Message]) -> str:
    """The highest severity of what is not resolved; empty if all is."""
    open_ones = {one.alert.severity for one in messages if one.event != "closed"}
    return next((severity for severity in SEVERITIES if severity in open_ones), "")


class Digest:
    """One message that stands for ``messages``, the open ones first."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = sorted(
            messages, key=lambda one: (one.event == "closed", SEVERITIES.index(one.alert.severity))
        )

    @property
    def title(self) -> str:
        """One line: how many alerts of which rules."""
        severity = highest_severity(self._messages)
        rules = Counter(one.alert.rule for one in self._messages)
        counts = ", ".join(f"{count} {rule}" for rule, count in rules.most_common(5))
        more = ", ..." if len(rules) > 5 else ""
        end = "Resolved" if all(one.is_resolved for one in self._messages) else "Closed"
        word = severity.upper() if severity else end
        return f"[{word}] {len(self._messages)} alerts: {printable(counts)}{more}"

    @property
    def text(self) -> str:
        """A line for each alert, with the page of its run or the command to run next below it."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for message in self._messages:
            yield message.title
            below = message.link or ("" if message.event == "closed" else message.alert.action)
            if below:
                yield f"    {printable(below)}"
