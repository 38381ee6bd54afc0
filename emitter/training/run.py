"""Runs of training loops without a Trainer: ``start_run`` and ``Run``."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lineside.bus.checkpoints.hold import read_limits
from lineside.bus.errors import SettingsError
from lineside.bus.protocol.event_kinds import OWN_KINDS
from lineside.bus.protocol.events import is_run_id
from lineside.bus.settings import Settings
from lineside.emitter.sampler.starter import missing_package, sampler_starter, stopped_sampler
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.spool.status_page import PHASES, TRAINING
from lineside.emitter.training.checkpoints.folder import CheckpointFolder, written_checkpoint
from lineside.emitter.training.checkpoints.hold import CheckpointHolder
from lineside.emitter.training.console import announce_run, print_disabled, print_once
from lineside.emitter.training.facts.collect import collect
from lineside.emitter.training.facts.environment import tracker_environment
from lineside.emitter.training.facts.process import (
    identity_facts,
    label_facts,
    process_facts,
    version_facts,
)
from lineside.emitter.training.identity import (
    Identity,
    LabelOptions,
    Labels,
    RankInfo,
    new_identity,
    new_run_id,
    optional_text,
)
from lineside.emitter.training.publisher import Publisher, named_values
from lineside.emitter.training.run_sync import WAIT_FOR_RANK_0, RunSync

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TRAINING_PHASE = PHASES.index("training")


class Run:
    """Publishes one attempt of a run. Get one from ``start_run``.

    No method raises or waits, but ``finish``, which waits at most 3 s in the life of the process.
    Any thread, signal handler or finalizer may use it. In a forked child or as a copy it does
    nothing: the stream belongs to the parent.
    """

    def __init__(self, publisher: Publisher | None = None) -> None:
        self.publisher = publisher
        self._checkpoint_folder = CheckpointFolder()
        self._holder: CheckpointHolder | None = None

    @classmethod
    def open(
        cls,
        settings: Settings,
        identity: Identity,
        facts: dict[str, Any],
        *,
        step: int = 0,
        now_ns: int = 0,
    ) -> Run:
        """Open the stream and publish ``run_start`` with ``facts`` at ``step``.

        Raises:
            SettingsError, OSError: the spool cannot be used.
        """
        publisher = Publisher(settings, identity)
        data = identity_facts(identity) | facts
        publisher.emit("run_start", step, None, 0, data, now_ns or time.monotonic_ns())
        if identity.rank_info.rank == 0:
            announce_run(settings, identity.run, data["name"])
        if settings.sampler and identity.rank_info.local_rank == 0:
            _keep_sampler(publisher, settings)
        return cls(publisher)

    @property
    def id(self) -> str:
        """The run's id; empty if nothing is published."""
        return self.publisher.identity.run if self.publisher else ""

    @property
    def attempt(self) -> str:
        """The attempt's name; empty if nothing is published."""
        return self.publisher.identity.attempt if self.publisher else ""

    @property
    def is_open(self) -> bool:
        """Whether events are published: not if Lineside is off, after the end, or in a fork."""
        return self.publisher is not None and self.publisher.is_open

    def log(
        self, values: Mapping[str, Any], *, step: int | None = None, epoch: float | None = None
    ) -> None:
        """Publish metrics at ``step`` (default: the last one given) and fractional ``epoch``.

        Tensors on a GPU are named but not read, because reading waits for the GPU.
        """
        publisher = self.publisher
        if publisher is None or not publisher.is_open:
            return
        now_ns = time.monotonic_ns()
        try:
            step = publisher.step if step is None else int(step)
            data = {"logs": named_values(values)}
            publisher.publish_hook("log", step, epoch, 0, data, _TRAINING_PHASE, now_ns)
        except BaseException as error:
            if is_script_error(error):
                raise
            publisher.count_hook_error(error)

    def event(
        self,
        kind: str,
        data: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        epoch: float | None = None,
    ) -> None:
        """Publish an event of any kind but Lineside's own ones, with ``data`` of any depth."""
        publisher = self.publisher
        if publisher is None or not publisher.is_open:
            return
        now_ns = time.monotonic_ns()
        try:
            _check_kind(kind)
            step = publisher.step if step is None else int(step)
            payload = None if data is None else named_values(data)
            publisher.publish_hook(kind, step, epoch, 0, payload, _TRAINING_PHASE, now_ns)
        except BaseException as error:
            if is_script_error(error):
                raise
            publisher.count_hook_error(error)

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        metrics: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        epoch: float | None = None,
    ) -> None:
        """Publish that the checkpoint at ``path``, a folder or a file, is written completely.

        ``metrics`` are those of its weights, by which an archiver keeps the best ones. Each rank
        that wrote a part of it calls this; rank 0 publishes, and last. Where an archiver runs,
        hard links then keep the files until it has copied them: the script may delete them.
        """
        publisher = self.publisher
        if publisher is None or not publisher.is_open:
            return
        now_ns = time.monotonic_ns()
        try:
            written = written_checkpoint(path)
            if publisher.identity.rank_info.rank:
                return
            step = publisher.step if step is None else int(step)
            data: dict[str, Any] = {"checkpoint": str(written)}
            if metrics:
                data["metrics"] = dict(named_values(metrics))
            if written.name == f"checkpoint-{step}":
                data |= self._checkpoint_folder.facts(written.parent)
            publisher.publish_hook("save", step, epoch, 0, data, _TRAINING_PHASE, now_ns)
            if self._holder is None:
                settings = Settings.from_env()
                limits = partial(read_limits, settings.home, settings.hold_checkpoints)
                self._holder = CheckpointHolder(written.parent, limits)
            self._holder.hold(written, step, epoch)
            self._holder.finish(publisher)
        except BaseException as error:
            if is_script_error(error):
                raise
            publisher.count_hook_error(error)

    def finish(self, error: BaseException | None = None) -> None:
        """End the run, with ``error`` if it failed, and wait until the bus has all events."""
        publisher = self.publisher
        if publisher is None or not publisher.is_open:
            return
        try:
            publisher.close("exit" if error is None else "exception", error)
            publisher.wait()
        except BaseException as failure:
            if is_script_error(failure):
                raise
            publisher.count_hook_error(failure)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_clean_exit = isinstance(error, SystemExit) and error.code in (None, 0)
        self.finish(None if is_clean_exit else error)

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, ()


def start_run(
    name: str | None = None,
    *,
    project: str | None = None,
    run_id: str | None = None,
    **labels: Unpack[LabelOptions],
) -> Run:
    """Open a run for a training loop that is not a Trainer; end it with ``finish`` or ``with``.

    ``tags`` (a list), ``group``, ``notes`` and ``config`` (a dict) describe the run, with secrets
    redacted; ``run_id`` continues a run in a new attempt. LINESIDE_RUN_ID, LINESIDE_RUN_NAME,
    LINESIDE_PROJECT, LINESIDE_TAGS, LINESIDE_GROUP and LINESIDE_NOTES override the arguments. This
    never raises: if the spool or a setting cannot be used, it prints one line to stderr and the run
    does nothing. Every rank of a torch.distributed job may call it; all use rank 0's run.

    Raises:
        TypeError: an argument of another name.
    """
    described = Labels(**labels)
    try:
        settings = Settings.from_env()
        if settings.disabled:
            print_once("off: LINESIDE_DISABLED is set")
            return Run()
        identity = _identify(settings, optional_text(name), optional_text(project), run_id)
        facts = (
            {"source": "loop"}
            | label_facts(described, settings)
            | collect({"process": process_facts, "versions": version_facts})
            | ({} if identity.rank_info.rank else collect({"environment": tracker_environment}))
        )
        run = Run.open(settings, identity, facts)
        if run.publisher is not None:
            run.publisher.flag(raised=TRAINING)
            run.publisher.maintain_if_due()  # the first event may come much later
            weakref.finalize(run, run.publisher.abandon).atexit = False
    except Exception as error:
        if is_script_error(error):
            raise
        print_disabled(error)
        return Run()
    return run


def _keep_sampler(publisher: Publisher, settings: Settings) -> None:
    """Keep a sampler running for this machine while the publisher's hooks are called."""
    missing = missing_package()
    if missing is not None:
        print_once(missing)
    else:
        stopped = stopped_sampler(settings.spool)
        if stopped is not None:
            print_once(stopped)
        starter = sampler_starter(settings.spool, settings.broker)
        publisher.maintenance_tasks.append(starter.ensure)


def _check_kind(kind: object) -> None:
    if not isinstance(kind, str) or kind in OWN_KINDS:
        raise ValueError(f"{kind!r} is not a kind of event that a script can publish")


def _identify(
    settings: Settings, name: str | None, project: str | None, run_id: str | None
) -> Identity:
    if run_id is not None and not is_run_id(run_id):
        expected = "expected 1 to 128 of A-Z a-z 0-9 . _ -, and not audit"
        raise SettingsError("run_id", run_id, expected)
    rank_info = RankInfo.from_env()
    run_sync = RunSync("loop")
    received = run_sync.receive(rank_info, WAIT_FOR_RANK_0) if rank_info.rank > 0 else None
    if received is not None:
        return received
    run = settings.run_id or run_id or new_run_id(name or "")
    identity = new_identity(settings, rank_info, run=run, name=name, project=project)
    if rank_info.rank == 0:
        run_sync.publish(identity)
    return identity
