"""What a person or a program is sent about an alert: title, text, and the body of a webhook."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal
from urllib.parse import quote

from lineside.bus.terminal_text import printable
from lineside.store.history.records import RUNNING_STATUSES
from lineside.subscribers.watchdog.alert import Alert

NotificationEvent = Literal["opened", "closed", "reminder", "test"]

_TITLE_CHARACTERS = 200
_VALUE_CHARACTERS = 1_000
_OUTPUT_CHARACTERS = 4_000
_MAX_METRICS = 12
_SHOWN_APART = frozenset({"step", "max_steps", "epoch", "metrics", "host", "exit", "output"})


@dataclass(frozen=True)
class Message:
    """A notification. ``id`` is the same in every attempt and at every target.

    ``was_announced`` is False for a closing if the target was never sent the opening. ``page`` is
    the address of the dashboard, empty if it is not known.
    """

    id: str
    event: NotificationEvent
    alert: Alert
    was_announced: bool = True
    page: str = ""

    @property
    def title(self) -> str:
        """One line: what happened to which run."""
        return _cut(self._title, _TITLE_CHARACTERS)

    @property
    def _title(self) -> str:
        alert = self.alert
        subject = f"{_run_name(alert)}: " if alert.run else ""
        word = {
            "opened": alert.severity.upper(),
            "reminder": f"{alert.severity.upper()}, still open",
            "closed": self._end if self.was_announced else f"Opened and {self._end.lower()}",
            "test": "Test",
        }[self.event]
        return printable(f"[{word}] {subject}{alert.summary}")

    @property
    def is_resolved(self) -> bool:
        """Whether the run, if there is one, goes on without what the alert reported.

        A run that ended with NaN is judged no more, and an end closes after a day: neither is well.
        """
        status = self.alert.details.get("status")
        return self.event == "closed" and (status is None or status in RUNNING_STATUSES)

    @property
    def _end(self) -> str:
        return "Resolved" if self.is_resolved else "Closed"

    @property
    def text(self) -> str:
        """The lines below the title, the most important first."""
        return "\n".join(self._lines())

    @property
    def link(self) -> str:
        """The page of the run, or of the dashboard; empty if its address is not known."""
        page = self.page.rstrip("/")
        return f"{page}/runs/{quote(self.alert.run, safe='')}" if page and self.alert.run else page

    def to_json(self) -> dict[str, Any]:
        """The body of a webhook, in strict JSON: NaN and infinities are texts."""
        alert = asdict(self.alert)
        alert["run"] = (
            {"id": self.alert.run, "name": self.alert.run_name, "project": self.alert.project}
            if self.alert.run
            else None
        )
        del alert["run_name"], alert["project"]
        for name in ("opened_at", "updated_at", "closed_at"):
            alert[name] = None if alert[name] is None else _rfc3339(alert[name])
        data = {**alert, "was_announced": self.was_announced, "link": self.link or None}
        body: dict[str, Any] = _strict(
            {"type": f"alert.{self.event}", "timestamp": _rfc3339(self._time), "data": data}
        )
        return body

    @property
    def _time(self) -> float:
        alert = self.alert
        if self.event == "closed" and alert.closed_at is not None:
            return alert.closed_at
        return alert.opened_at if self.event == "opened" else alert.updated_at

    def _lines(self) -> Iterator[str]:
        alert, details = self.alert, self.alert.details
        if len(self._title) > _TITLE_CHARACTERS:
            yield printable(alert.summary)
            yield ""
        if alert.run:
            project = f", project {alert.project}" if alert.project else ""
            run_id = f" ({alert.run})" if _run_name(alert) != alert.run else ""
            yield _row("Run", f"{_run_name(alert)}{run_id}{project}")
        yield _row("Rule", f"{alert.rule} ({alert.severity})")
        if alert.subject:
            yield _row("Subject", alert.subject)
        yield _row("Opened", _clock(alert.opened_at))
        if self.event == "closed" and alert.closed_at is not None:
            seconds = max(0.0, alert.closed_at - alert.opened_at)
            status = "" if self.is_resolved else f"; the run is {details['status']}"
            yield _row(self._end, f"{_clock(alert.closed_at)}, after {duration(seconds)}{status}")
        if alert.openings > 1:
            yield _row("Openings", str(alert.openings))
        yield from _progress(details)
        for name in ("host", "exit"):
            if details.get(name) not in (None, ""):
                yield _row(name.capitalize(), str(details[name]))
        for name, value in details.items():
            if name not in _SHOWN_APART and value not in (None, "", [], {}):
                yield _row(name.replace("_", " ").capitalize(), _value(value))
        if self.link:
            yield _row("Page", self.link)
        if alert.action and self.event != "closed":
            yield _row("Next", alert.action)
        output = details.get("output")
        if output:
            yield ""
            yield "Last output:"
            text = "\n".join(map(str, output)) if isinstance(output, list) else str(output)
            yield from map(printable, text[-_OUTPUT_CHARACTERS:].splitlines())


def trial_message(message_id: str, page: str = "", now: float | None = None) -> Message:
    """The message that shows whether a target can be reached."""
    at = time.time() if now is None else now
    alert = Alert(
        id=message_id,
        run="",
        run_name="",
        project="",
        rule="test",
        subject="",
        state="closed",
        severity="info",
        summary="Lineside can reach you here: a test, nothing has happened",
        action="",
        opened_at=at,
        updated_at=at,
        closed_at=at,
    )
    return Message(message_id, "test", alert, page=page)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _progress(details: Mapping[str, Any]) -> Iterator[str]:
    step, max_steps, epoch = (details.get(name) for name in ("step", "max_steps", "epoch"))
    if step is not None:
        of = f" of {_value(max_steps)}" if max_steps else ""
        yield _row("Last step", f"{_value(step)}{of}{f', epoch {_value(epoch)}' if epoch else ''}")
    metrics = details.get("metrics")
    if isinstance(metrics, Mapping) and metrics:
        shown = [f"{name} {_value(value)}" for name, value in list(metrics.items())[:_MAX_METRICS]]
        more = len(metrics) - len(shown)
        yield _row("Metrics", ", ".join(shown) + (f", and {more} more" if more else ""))


def _run_name(alert: Alert) -> str:
    return alert.run_name or alert.run


def _row(name: str, value: str) -> str:
    return f"{name}: {_cut(printable(value), _VALUE_CHARACTERS)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return str(value)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _rfc3339(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value
