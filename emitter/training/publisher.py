"""Publishes the events and the status page of one stream.

Safe for threads, signal handlers, forks and the exit of the interpreter.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic_ns, time
from typing import Any

from lineside.bus.errors import LinesideError
from lineside.bus.settings import Settings
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.sanitize import Sanitizer
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.spool.sidecar_process import shipper_starter
from lineside.emitter.spool.status_page import (
    CLOSED,
    FLAGS,
    HOOK_ERRORS,
    HOOK_MONOTONIC_NS,
    HOOK_NS,
    HOOKS,
    PHASE,
    PHASES,
    STEP,
    TRAIN_ENDED,
    TRAINING,
)
from lineside.emitter.spool.writer import SpoolWriter
from lineside.emitter.training import launch_registry, shutdown
from lineside.emitter.training.console import print_once, report_unread
from lineside.emitter.training.error_facts import error_facts, one_line
from lineside.emitter.training.identity import Identity

_MAINTAIN_EVERY_NS = 1_000_000_000
# More deferred events than this cannot be real: an exception of a signal handler has left
# ``_is_publishing`` set.
_MAX_DEFERRED = 64
_WAITING, _FINISHED = PHASES.index("waiting"), PHASES.index("finished")


class Publisher:
    """One open stream of this process; ``Run`` and the callback publish through it.

    The Trainer's hooks call ``on_hook``: ``publish_hook`` on rank 0, ``update_status`` on others.

    Raises (constructor only):
        SettingsError, OSError: the spool cannot be used.
    """

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.identity = identity
        self.on_hook = self.publish_hook if identity.rank_info.rank == 0 else self.update_status
        self._spool = SpoolWriter(settings.spool, identity.stream, rank=identity.rank_info.rank)
        self._shipper_starter = shipper_starter(settings.spool, settings.broker)
        self.is_open = True
        self.is_abandoned = False
        self.error_at_open = shutdown.last_error()
        self._is_released = False
        # Re-entrant: a signal handler may interrupt a publish and publish an event itself.
        self._lock = threading.RLock()
        self._is_publishing = False
        self._deferred: deque[Callable[[], object]] = deque()
        self._next_maintain_ns = 0
        self.maintenance_tasks: list[Callable[[], object]] = []
        """Called about once a second, from a hook."""
        self._next_hook_tasks: list[Callable[[], object]] = []
        self.step = 0
        self._epoch: float | None = None
        self._hooks = 0
        self._hook_ns = 0
        self._hook_errors = 0
        shutdown.register(self)
        launch_registry.register(identity.stream)

    def publish_hook(
        self,
        kind: str | None,
        step: int,
        epoch: float | None,
        control: int,
        data: Any,
        phase: int | None,
        now_ns: int,
        wall: float = 0.0,
    ) -> None:
        """Publish one event and update the page; ``now_ns`` is when the hook was called.

        With ``kind`` None only the page is updated; ``phase`` None keeps the phase. An event that a
        signal handler or a finalizer publishes inside another event of this thread follows it.
        """
        # One function: after a backward pass the caches are cold, and each call costs microseconds.
        if not self.is_open:
            return
        with self._lock:
            if self._is_publishing and len(self._deferred) < _MAX_DEFERRED:
                self._defer(kind, step, epoch, control, data, phase, now_ns)
                return
            self._is_publishing = True
            try:
                is_due = now_ns >= self._next_maintain_ns
                if is_due:
                    self._maintain(now_ns, kind)
                spool = self._spool
                if kind is not None:
                    spool.write(kind, step, epoch, control, data, now_ns, wall)
                fields = spool.fields
                self.step, self._epoch = step, epoch
                fields[STEP] = step
                if phase is not None and phase != fields[PHASE]:
                    # An evaluation or a save, and the step after it, may last for minutes.
                    is_due = is_due or phase > _WAITING or fields[PHASE] > _WAITING
                    fields[PHASE] = phase
                fields[HOOK_MONOTONIC_NS] = now_ns
                if is_due:
                    spool.folder.page.sync()
                self._hooks = fields[HOOKS] = self._hooks + 1
                self._hook_ns = fields[HOOK_NS] = self._hook_ns + monotonic_ns() - now_ns
            finally:
                self._is_publishing = False
            if self._deferred:
                self._drain()

    def update_status(
        self,
        _kind: str,
        step: int,
        epoch: float | None,
        control: int,
        _data: Any,
        phase: int | None,
        now_ns: int,
    ) -> None:
        """As ``publish_hook``, but update only the page: for ranks other than 0."""
        self.publish_hook(None, step, epoch, control, None, phase, now_ns)

    def emit(
        self,
        kind: str,
        step: int,
        epoch: float | None,
        control: int,
        data: Any,
        now_ns: int,
        wall: float = 0.0,
    ) -> None:
        """Publish one event that belongs to no hook, such as ``run_start``."""
        if self.is_open:
            write = partial(self._spool.write, kind, step, epoch, control, data, now_ns, wall)
            self._run_exclusively(write)

    def call_at_next_hook(self, task: Callable[[], object]) -> None:
        """Call ``task`` at the next hook; its events follow the hook's."""
        self._next_hook_tasks.append(task)
        self._next_maintain_ns = 0

    def flag(self, *, raised: int = 0, lowered: int = 0) -> None:
        """Set and clear bits of the page's FLAGS."""
        fields = self._spool.fields
        if self.is_open:
            fields[FLAGS] = fields[FLAGS] & ~lowered | raised
            self._spool.folder.page.sync()

    def count_hook_error(self, error: BaseException) -> None:
        """Count a hook that failed, and print a warning the first time."""
        self._hook_errors += 1
        if self.is_open:
            self._spool.fields[HOOK_ERRORS] = self._hook_errors
        if self._hook_errors == 1:
            print_once(f"a hook failed, training goes on ({one_line(error)})")

    @property
    def fields(self) -> memoryview:
        """The status page's fields as they are mapped now."""
        return self._spool.fields

    @property
    def training_ended(self) -> bool:
        """Whether a training on this stream reached its end."""
        return bool(self._spool.fields[FLAGS] & TRAIN_ENDED)

    @property
    def next_seq(self) -> int:
        """The seq of the next event."""
        return self._spool.next_seq

    @contextmanager
    def in_phase(self, phase: int) -> Iterator[None]:
        """Show ``phase`` on the page, and afterwards the previous phase again."""
        before = self._spool.fields[PHASE]
        self._set_phase(phase)
        try:
            yield
        finally:
            self._set_phase(before)

    def _set_phase(self, phase: int) -> None:
        self._spool.fields[PHASE] = phase
        self._spool.folder.page.sync()

    def maintain_if_due(self) -> None:
        """Maintain the spool and the shipper while no hook is called."""
        now_ns = monotonic_ns()
        if self.is_open and now_ns >= self._next_maintain_ns:
            self._run_exclusively(partial(self._maintain, now_ns, None))

    def wait(self, *others: Unconfirmed) -> bool:
        """Wait until the bus has confirmed all events; False if the process's 5 s are spent."""
        return shutdown.wait(self.unconfirmed(), *others)

    def unconfirmed(self) -> Unconfirmed:
        """The events that the bus may not have confirmed yet."""
        self._spool.folder.page.sync()
        return Unconfirmed(
            self._spool.folder.path,
            self._spool.accounted_seq,
            self._shipper_starter,
            is_reported=self.identity.rank_info.local_rank == 0,
        )

    def publish_train_error(self, error: BaseException) -> None:
        """Publish that ``train()`` raises ``error``; the script may publish more afterwards."""
        if self.is_open:
            data = {"error": error_facts(error)}
            self.emit("train_error", self.step, self._epoch, 0, data, monotonic_ns())
            self._spool.fields[PHASE] = _FINISHED
            self.flag(lowered=TRAINING)

    def release(self) -> None:
        """Hold no file until the next event, unless training goes on.

        The shipper then sees a closed stream: no heartbeat, and no ``process_lost`` if the process
        is killed. The next event opens the stream again.
        """
        if self.is_open and not self._spool.fields[FLAGS] & TRAINING:
            self._run_exclusively(self._release)

    def close(self, how: str, error: BaseException | None = None) -> None:
        """Publish ``run_end`` and close the stream; the second call does nothing.

        ``how`` is exit, restarted or exception.
        """
        if not self.is_open:
            return
        with self._lock:
            if self._is_publishing:
                self._deferred.append(partial(self.close, how, error))
                return
            self._run_exclusively(self._reopen)
            if not self._is_released:
                self._publish_end(how, error)
            self.is_open = False
            shutdown.unregister(self, self.unconfirmed())
            self._spool.close()

    def abandon(self) -> None:
        """Nothing can publish through this object any more: its Trainer or Run is gone."""
        self.is_abandoned = True
        shutdown.let_go_of(self)

    def let_go(self, *, may_close: bool) -> None:
        """Close the stream if it is abandoned and ``may_close``, else release it.

        Does nothing while another thread uses it, which may be waiting for this one.
        """
        if self.is_open and self._lock.acquire(blocking=False):
            try:
                if self.is_abandoned and may_close:
                    self.close("exit")
                else:
                    self.release()
            finally:
                self._lock.release()

    def disable(self) -> None:
        """Publish nothing any more, in a forked child; the parent keeps the files."""
        self.is_open = False
        self._spool.abandon()

    def _publish_end(self, how: str, error: BaseException | None) -> None:
        self._run_exclusively(partial(self._spool.flush_gaps, self.step, self._epoch))
        report_unread(self._spool.unread)
        data = {
            "how": how,
            "error": error_facts(error),
            "counters": self._counters(),
        }
        self.emit("run_end", self.step, self._epoch, 0, data, monotonic_ns())
        self._spool.fields[PHASE] = _FINISHED
        self.flag(raised=CLOSED, lowered=TRAINING)

    def _run_exclusively(self, func: Callable[[], object]) -> None:
        """Call ``func`` now, or after the event that this thread is publishing."""
        with self._lock:
            if self._is_publishing and len(self._deferred) < _MAX_DEFERRED:
                self._deferred.append(func)
                return
            self._is_publishing = True
            try:
                func()
            finally:
                self._is_publishing = False
            if self._deferred:
                self._drain()

    def _maintain(self, now_ns: int, kind: str | None) -> None:
        """Maintain the spool and the shipper. Errors are counted: the caller goes on.

        Before an event of ``kind`` of a released stream, open that again: for this event, or until
        the evaluation that a ``prediction_step`` belongs to has ended.
        """
        if self._is_released and kind is None:
            return
        self._next_maintain_ns = now_ns + _MAINTAIN_EVERY_NS
        try:
            if self._is_released:
                self._reopen()
                shutdown.let_go_of_others(self)
                if kind != "prediction_step":
                    self._deferred.append(self.release)
            if not self._is_released:
                self._spool.maintain()
            report_unread(self._spool.unread)
            self._shipper_starter.ensure()
            tasks, self._next_hook_tasks = self._next_hook_tasks, []
            for task in (*tasks, *self.maintenance_tasks):
                task()
        except Exception as error:
            if is_script_error(error):
                raise
            self.count_hook_error(error)

    def _release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._next_maintain_ns = 0  # the next event goes through ``_maintain``
            self._spool.flush_gaps(self.step, self._epoch)
            self._spool.fields[PHASE] = _FINISHED
            self._spool.close()

    def _reopen(self) -> None:
        if self._is_released:
            try:
                self._spool.reopen()
                self._is_released = False
            except (OSError, LinesideError) as error:
                self._next_maintain_ns = 0
                self.count_hook_error(error)

    def _defer(
        self,
        kind: str | None,
        step: int,
        epoch: float | None,
        control: int,
        data: Any,
        phase: int | None,
        now_ns: int,
    ) -> None:
        # The caller may change its values once we have returned.
        data_copy = Sanitizer().clean(data)
        wall = time()
        self._deferred.append(
            partial(self.publish_hook, kind, step, epoch, control, data_copy, phase, now_ns, wall)
        )

    def _drain(self) -> None:
        while self._deferred:
            self._deferred.popleft()()

    def _counters(self) -> dict[str, int]:
        """The counters of this stream, including ``run_end`` itself."""
        return {
            "emitted": self._spool.next_seq + 1,
            "dropped": self._spool.dropped,
            "hook_errors": self._hook_errors,
            "encode_failures": self._spool.encode_failures,
            "hook_ns": self._hook_ns,
            "hooks": self._hooks,
        }


def named_values(values: Any) -> Any:
    """``values``, which a script gives as names and values.

    Raises:
        TypeError: it is not a mapping.
    """
    if type(values) is not dict and not hasattr(values, "keys"):
        raise TypeError(f"expected names and values, got {type(values).__name__}")
    return values
