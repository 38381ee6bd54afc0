"""The checkpoints of one run while an event or ``tick`` is handled: state, facts, publications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lineside.bus.checkpoints.metric_direction import AUTO, MAX, MIN
from lineside.bus.protocol.checkpoints import COPYING
from lineside.bus.protocol.event_kinds import CHECKPOINT_STATE
from lineside.store.archive.manifest import CheckpointFacts
from lineside.subscribers import RunContext
from lineside.subscribers.archiver.entry import Entries, Entry
from lineside.subscribers.archiver.policy import KeepOptions

_DEFAULT_METRIC = "eval_loss"
_MAX_ATTEMPTS = 50
_MAX_REPORTS = 8


class RunArchive:
    """Reads and changes the durable state of ``run``; ``url`` is the archive's.

    ``store`` keeps the changes, and publishes the state of each checkpoint that has changed.
    """

    def __init__(self, run: RunContext, url: str) -> None:
        self.run = run
        self.state = run.open_state()
        self.entries = Entries(self.state)
        self.changes = 0
        """Grows whenever a checkpoint has changed."""
        self._url = url
        self._known = {entry.id: _copy(entry) for entry in self.entries.all}

    @property
    def is_current(self) -> bool:
        """Whether nothing has reset the state since."""
        return self.entries.is_of(self.run.open_state())

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests that have no answer yet."""
        found: list[dict[str, Any]] = self.state.setdefault("requests", [])
        return found

    @property
    def stale_keys(self) -> list[str]:
        """The manifests that a later save has replaced."""
        found: list[str] = self.state.setdefault("stale_keys", [])
        return found

    @property
    def has_garbage(self) -> bool:
        """Whether the archive may have parts of the run that no manifest names."""
        return bool(self.state.get("has_garbage"))

    @has_garbage.setter
    def has_garbage(self, value: bool) -> None:
        self.state["has_garbage"] = value

    @property
    def has_work(self) -> bool:
        """Whether anything is still to be done."""
        return bool(
            self.requests
            or self.stale_keys
            or self.has_garbage
            or any(one.is_open or one.hold or one.is_to_be_deleted for one in self.entries.all)
        )

    def attempt(self, name: str) -> dict[str, Any]:
        """What is known of an attempt: ``world`` size, ``saves``, producers that are ``open``.

        ``saves`` counts its checkpoints, ``turns`` all saves of them.
        """
        known: dict[str, dict[str, Any]] = self.state.setdefault("attempts", {})
        if name not in known:
            known[name] = {"world": 1, "saves": 0, "turns": 0, "open": []}
            for old in sorted(known)[:-_MAX_ATTEMPTS]:
                del known[old]
        return known[name]

    def is_over(self, attempt: str) -> bool:
        """Whether no process of ``attempt`` writes any more."""
        known = self.state.get("attempts", {})
        return any(other > attempt for other in known) or not known.get(attempt, {}).get("open")

    def note_resumed(self, facts: Mapping[str, Any]) -> None:
        """Note the checkpoint that an attempt resumes from: it is never removed."""
        resumed = facts.get("resumed_from")
        if isinstance(resumed, Mapping) and resumed.get("run") in (None, self.run.id):
            place = [resumed.get("attempt"), resumed.get("step")]
            known = self.state.setdefault("resumed", [])
            if place not in known:
                archived = [one for one in self.entries.all if one.key is not None]
                unused = [one for one in known if not any(_is_at(one, e) for e in archived)]
                for old in unused[:-_MAX_ATTEMPTS]:
                    known.remove(old)
                known.append(place)

    def is_resumed_from(self, entry: Entry) -> bool:
        """Whether an attempt began with it; without a known attempt each one of the step counts."""
        return any(_is_at(place, entry) for place in self.state.get("resumed", ()))

    def keep_options(self, options: KeepOptions) -> KeepOptions:
        """``options`` with the metric of the training's own best model, if they name none."""
        if options.monitor:
            return options
        arguments = self.run.facts.get("args")
        arguments = arguments if isinstance(arguments, Mapping) else {}
        metric, mode = arguments.get("metric_for_best_model"), options.mode
        if not isinstance(metric, str) or not metric:
            metric = _DEFAULT_METRIC
        elif not metric.startswith("eval_"):
            metric = f"eval_{metric}"  # as the Trainer looks for it
        is_greater = arguments.get("greater_is_better")
        if mode == AUTO and isinstance(is_greater, bool):
            mode = MAX if is_greater else MIN
        return KeepOptions(**{**vars(options), "monitor": (metric,), "mode": mode})

    def facts(self, entry: Entry) -> CheckpointFacts:
        """What the manifest of ``entry`` has beside its files."""
        versions = self.run.facts.get("versions")
        versions = versions if isinstance(versions, Mapping) else {}
        return CheckpointFacts(
            run=self.run.id,
            attempt=entry.attempt,
            step=entry.step,
            checkpoint=entry.path,
            saved_at=entry.time,
            name=self.run.name,
            project=self.run.project or None,
            epoch=entry.epoch,
            world_size=self.attempt(entry.attempt)["world"],
            metrics=dict(entry.metrics),
            versions={name: value for name, value in versions.items() if isinstance(value, str)},
        )

    def report_once(self, message: str) -> None:
        """Report ``message`` on the run, unless it is among the last that were."""
        reported: list[str] = self.state.setdefault("reported", [])
        if message not in reported:
            reported.append(message)
            del reported[:-_MAX_REPORTS]
            self.run.report(message)

    def answer(self, request: Mapping[str, Any], entry: Entry, refused: str | None = None) -> None:
        """Publish the answer to ``request``, and forget it."""
        answer = {"request": request.get("id"), "refused": refused}
        self.run.publish(CHECKPOINT_STATE, {**self.data(entry), **answer})
        self._known[entry.id] = _copy(entry)
        self.changes += 1
        self.requests.remove(dict(request))

    def store(self) -> None:
        """Keep what was changed, and publish it; what is being copied has events of its own."""
        for entry in self.entries.all:
            before = self._known.get(entry.id)
            if before != entry:
                self.changes += 1
                if entry.state != COPYING and (not before or _notable(before) != _notable(entry)):
                    self.run.publish(CHECKPOINT_STATE, self.data(entry))
                self._known[entry.id] = _copy(entry)
        self.run.stays = self.has_work

    def data(self, entry: Entry) -> dict[str, Any]:
        """The data of an event about ``entry``."""
        return entry.event_data(f"{self._url}/{entry.key}" if entry.key else None)


def _is_at(place: Sequence[Any], entry: Entry) -> bool:
    attempt, step = place
    return bool(step == entry.step and attempt in (None, entry.attempt))


def _copy(entry: Entry) -> Entry:
    return replace(entry, metrics=dict(entry.metrics), keep=list(entry.keep))


def _notable(entry: Entry) -> tuple[object, ...]:
    """What of ``entry`` is published when it changes; while it waits, size and marks come along."""
    always = (entry.state, entry.why, entry.retry_at, entry.key, entry.pinned, entry.metrics)
    marks = (entry.best, entry.last, entry.keep, entry.bytes, entry.stored, entry.files)
    return always if entry.is_open else (*always, *marks)
