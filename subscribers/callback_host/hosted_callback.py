"""One callback with its tracker, called for the events of one attempt."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.bus.callback_config import (
    STOCK_CALLBACKS,
    CallbackEntry,
    entry_environment,
    make_callback,
)
from lineside.bus.callbacks.hidden_values import hide_secrets
from lineside.bus.errors import CallbackConfigError
from lineside.bus.protocol.commands import EXPIRES_SECONDS
from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.subscribers.backoff import Backoff, RetryLater
from lineside.subscribers.callback_host.attempt_end import AttemptEnd
from lineside.subscribers.callback_host.trackers.registry import missing_packages, tracker_of
from lineside.subscribers.callback_host.trackers.tracker import HostedRun, RunEnd, Tracker
from lineside.subscribers.callback_host.worker_spec import BUS, WorkerSpec
from lineside.subscribers.context import RunContext
from lineside.subscribers.events import RunEvent
from lineside.subscribers.handler_runner import SubscriberStopped
from lineside.subscribers.subscriber import Subscriber

if TYPE_CHECKING:
    from lineside.subscribers.callback_host.hook_caller import FlagChanges, HookCaller
    from lineside.subscribers.callback_host.rebuild.run_image import RunImage

_STOP = "should_training_stop"
_OPS: Mapping[str, str] = {
    "should_save": "save",
    "should_evaluate": "evaluate",
    "should_log": "log",
}
_ONCE = ("init_end", "train_begin")  # called again where a later process goes on
_MAX_EXPORT_BYTES = 256 << 10


_USER_INFO = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/@]*@", re.IGNORECASE)
_NO_EVENT = Event(0, 0.0, 0, "")


class UnusableCallback(SubscriberStopped):
    """The callback cannot be made as it is configured."""


class CallbackExited(Exception):
    """A callback asked its process to exit: an error of this hook, as any other."""


class HostedCallback(Subscriber):
    """Rebuilds what the Trainer had and calls the callback with it.

    The durable state of the run holds the tracker's ``identity`` for all attempts; of the newest
    attempt which hooks of ``_ONCE`` were called, the callback's exported state and whether the
    tracker's run is closed.
    """

    def __init__(self, spec: WorkerSpec, entry: CallbackEntry) -> None:
        self._spec, self._entry = spec, entry
        self._stream = Stream(spec.run, RANK_0, spec.attempt)
        self.end = AttemptEnd(spec.attempt)
        self._observed_seq = -1
        self._image: RunImage | None = None
        self._tracker: Tracker | None = None
        self._callback: Any = None
        self._caller: HookCaller | None = None
        self._to_repeat: list[str] = []
        self._stack_environment = dict(os.environ)
        self._signal_handlers: dict[int, Any] = {}  # as this process has them
        self._backoff = Backoff(*self.retry_seconds)
        self.hook = ""
        """The hook that is being called; empty between two calls."""
        self.hook_since = time.monotonic()

    @property
    def is_started(self) -> bool:
        """Whether the callback was made."""
        return self._callback is not None

    def replay(self, run: RunContext, stream: Stream, event: Event) -> None:
        """Take an event that an earlier process has handled."""
        self._observe(run, stream, event)

    def on_event(self, run: RunContext, event: RunEvent) -> None:
        """Call the event's hook, if it is one of the attempt's Trainer."""
        self._observe(run, event.stream, event.event)
        if event.kind in LIFECYCLE_KINDS:
            self._start(run, event.event)
            self._call(run, event.event)
            state = run.open_state()
            if event.kind in _ONCE and event.kind not in state["called"]:
                state["called"].append(event.kind)

    def close_tracker(self, run: RunContext, end: RunEnd) -> None:
        """Close the tracker's run, whose attempt is over, if the callback was ever called."""
        if not run.open_state()["called"]:
            return
        event = replace(_NO_EVENT, time=end.time, step=run.step, epoch=run.epoch)
        self._start(run, event)
        tracker = self._tracker_of(run)
        with self._calling("close"):
            tracker.close(self._callback, end)
        self._keep_identity(run)

    def mark_closed(self, run: RunContext, end: RunEnd) -> None:
        """Note that the tracker's run is closed, or was given up."""
        run.open_state()["closed"] = end.status

    def suspend(self) -> None:
        """Let the tracker send what it has: this process ends before the attempt does."""
        if self._tracker is not None and self._callback is not None:
            with self._calling("suspend"):
                self._tracker.suspend(self._callback)

    def begin(self, run: RunContext) -> bool:
        """Read what is kept of the run; whether the tracker's run is closed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._signal_handlers[number] = signal.getsignal(number)
        state = run.open_state()
        if state.get("attempt") != self._spec.attempt:
            state.update(attempt=self._spec.attempt, called=[], exported=None, closed="")
            for name in ("stopped_at", "has_impossible", "has_checked", "has_export_error"):
                state.pop(name, None)
        self._to_repeat = list(state["called"])
        return bool(state["closed"])

    def redact(self, text: str) -> str:
        """``text`` without the secrets that this process was given."""
        entry = self._entry
        return hide_secrets(text, entry.args, entry.environment, self._stack_environment)

    def _observe(self, run: RunContext, stream: Stream, event: Event) -> None:
        self.end.observe(stream, event)
        if event.seq > self._observed_seq:  # and is not tried again
            self._rebuild(run, stream, event).observe(stream, event)
            self._observed_seq = event.seq

    def _rebuild(self, run: RunContext, stream: Stream, event: Event) -> RunImage:
        """The image, made with the first event of the attempt that there is."""
        if self._image is None:
            facts = (event.data or {}) if event.kind == "run_start" else run.facts
            try:
                self._prepare_process(run, facts, event.time)
                from lineside.subscribers.callback_host.rebuild.run_image import RunImage

                image = RunImage()
            except ImportError as error:
                raise UnusableCallback(
                    f"{sys.executable} cannot import {error.name or error}, which callbacks need: "
                    "install transformers there, or name another interpreter as `python:` of the "
                    "entry"
                ) from error
            except OSError as error:
                raise UnusableCallback(f"{self._spec.folder} cannot be used: {error}") from error
            if event.kind != "run_start":  # the journal no longer has it
                image.observe(stream, replace(_NO_EVENT, kind="run_start", data=facts))
            self._image = image
        return self._image

    def _tracker_of(self, run: RunContext) -> Tracker:
        if self._tracker is None:
            raise RuntimeError(f"no event of {self._stream} came before one of {run.id} to handle")
        return self._tracker

    def _prepare_process(self, run: RunContext, facts: Mapping[str, Any], began: float) -> None:
        """Make the tracker, and this process one that the callback can be imported in."""
        state = run.open_state()
        folder = Path(self._spec.folder)
        hosted = HostedRun(
            run.id,
            str(facts.get("name") or run.id),
            str(facts.get("project") or ""),
            self._spec.attempt,
            facts,
            state.setdefault("started_at", began),
            dict(state.get("identity") or {}),
            folder / "work",
            bool(state.get("identity")),
            self._spec.source != BUS,
        )
        hosted.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tracker_class = tracker_of(self._entry.class_path)
        self._tracker = tracker = tracker_class(hosted)
        os.environ.update(
            {
                **_run_environment(facts, self._stack_environment),
                **tracker.environment(),
                **self._entry_environment(),
            }
        )
        if missing := missing_packages(self._entry.class_path):
            raise UnusableCallback(
                f"callback {self._entry.name} needs the package {', '.join(missing)}, which "
                f"{sys.executable} does not have: install it there, or name another interpreter "
                "as `python:` of the entry"
            )
        is_stock = self._entry.class_path in STOCK_CALLBACKS.values()
        needs_torch = self._entry.torch
        if needs_torch is None:
            needs_torch = tracker.needs_torch or not is_stock
        if not needs_torch:
            # 200 MB less; transformers 4 cannot do with accelerate alone.
            for name in ("torch", "accelerate"):
                sys.modules[name] = None  # type: ignore[assignment]
        process = facts.get("process")
        place = process.get("cwd") if isinstance(process, Mapping) else None
        # A container or a unit of systemd may have the folder, such as /, and not write there.
        if not (isinstance(place, str) and Path(place).is_dir() and os.access(place, os.W_OK)):
            place = hosted.folder
        os.chdir(place)

    def _entry_environment(self) -> dict[str, str]:
        try:
            return entry_environment(self._entry, self._stack_environment)
        except CallbackConfigError as error:
            raise UnusableCallback(str(error)) from None

    def _start(self, run: RunContext, event: Event) -> None:
        """Make the callback; where an earlier process began, begin again from here."""
        if self._callback is None:
            from lineside.subscribers.callback_host.hook_caller import (
                HookCaller,
                signature_problems,
            )

            tracker = self._tracker_of(run)
            with self._calling("__init__"):
                try:
                    callback = make_callback(self._entry, self._stack_environment)
                except CallbackConfigError as error:
                    raise UnusableCallback(str(error)) from None
                try:
                    tracker.created(callback)
                except Exception as error:
                    raise UnusableCallback(f"{self._entry.name}: {error}") from error
            run.open_state().pop("unusable", None)
            exported = run.open_state()["exported"]
            for name, value in (exported or {}).items():
                setattr(callback, name, value)
            if self._image is None:
                raise RuntimeError(f"no event of {self._stream} is known")
            self._callback, self._caller = callback, HookCaller(callback, self._image)
            if not run.open_state().get("has_checked"):
                run.open_state()["has_checked"] = True
                for problem in signature_problems(callback):
                    run.report(problem)
        while self._to_repeat:
            kind = self._to_repeat[0]
            try:
                self._call(run, replace(event, kind=kind, data=None, control=0))
            except RetryLater:
                raise
            except Exception:
                self._to_repeat.pop(0)  # reported once; the events behind may go
                raise
            self._to_repeat.pop(0)

    def _call(self, run: RunContext, event: Event) -> None:
        """Call the hook of ``event`` with the tracker's part before and after it."""
        tracker = self._tracker_of(run)
        if self._caller is None or (call := self._caller.prepare(event)) is None:
            return
        self._keep_identity(run)
        with self._calling(call.hook):
            changes = self._caller.invoke(call) if tracker.before(call) else None
            tracker.after(call)
        run.open_state()["called_at"] = event.seq  # a change, so the place is kept at once
        self._keep_identity(run)
        self._export(run)
        if changes is not None:
            self._send_commands(run, event, call.hook, changes)

    @contextmanager
    def _calling(self, hook: str) -> Iterator[None]:
        """Note what is being called; an error of delivery has the event tried again."""
        self.hook_since, self.hook = time.monotonic(), hook
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as error:
            raise CallbackExited(f"{type(error).__name__}: {error}") from error
        except Exception as error:
            if self._tracker is not None and self._tracker.is_delivery_error(error):
                text = f"{type(error).__name__}: {error}"
                raise RetryLater(text, self._backoff.fail()) from error
            raise
        else:
            self._backoff.succeed()
        finally:
            self.hook = ""
            self._restore_signals()

    def _restore_signals(self) -> None:
        """Take back SIGTERM and SIGINT, which some trackers handle themselves."""
        for number, handler in self._signal_handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    def _keep_identity(self, run: RunContext) -> None:
        state, hosted = run.open_state(), self._tracker_of(run).run
        state["identity"], state["started_at"] = hosted.identity, hosted.started_at

    def _export(self, run: RunContext) -> None:
        """Keep the state of a callback that has one, as a checkpoint would."""
        from lineside.subscribers.callback_host.hook_caller import exported_attributes

        state = run.open_state()
        try:
            exported = exported_attributes(self._callback)
            size = len(json.dumps(exported))
        except Exception as error:  # noqa: BLE001 - the hook itself has succeeded
            problem = f"{type(error).__name__}: {error}"
        else:
            if size <= _MAX_EXPORT_BYTES:
                state["exported"] = exported
                return
            problem = f"it has {size} bytes of JSON, at most {_MAX_EXPORT_BYTES}"
        if not state.get("has_export_error"):
            state["has_export_error"] = True
            run.report(f"state() is not kept over a restart of the callback's process: {problem}")

    def _send_commands(
        self, run: RunContext, event: Event, hook: str, changes: FlagChanges
    ) -> None:
        """Send a command for each flag that the hook has set; what is none is an error once."""
        state = run.open_state()
        wanted = set(changes.set)
        age = time.time() - event.time
        if self._spec.source == BUS and age < EXPIRES_SECONDS:
            reason = f"callback {self._entry.name}, {hook}"
            if _STOP in wanted:
                stopped_at = state.get("stopped_at")
                if stopped_at is None or event.time >= stopped_at + EXPIRES_SECONDS:
                    run.command("stop", reason, save="should_save" in wanted)
                    state["stopped_at"] = event.time
                wanted.discard("should_save")
            for flag, op in _OPS.items():
                if flag in wanted:
                    run.command(op, reason)
        impossible = sorted(changes.cleared | (changes.set - _OPS.keys() - {_STOP}))
        if impossible and not state.get("has_impossible"):
            state["has_impossible"] = True
            run.report(
                f"it changed {', '.join(impossible)}: a callback outside training can only set "
                "should_log, should_evaluate, should_save and should_training_stop; one that needs "
                "more takes `where: training`"
            )


def _run_environment(facts: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, str]:
    """The run's variables for trackers, but for addresses that this process has with a password.

    A password never leaves the training.
    """
    given = facts.get("environment")
    return {
        name: value
        for name, value in (given.items() if isinstance(given, Mapping) else ())
        if isinstance(name, str)
        and isinstance(value, str)
        and value != _USER_INFO.sub(r"\1", own.get(name, ""))
    }


for _kind in LIFECYCLE_KINDS:  # so that errors are reported with the name of the hook
    setattr(HostedCallback, f"on_{_kind}", HostedCallback.on_event)
