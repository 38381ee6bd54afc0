"""Comet: one experiment for each run, by an experiment key of ours."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.background.delivery import (
    FLUSH_SECONDS,
    BackgroundTracker,
    NotDelivered,
    stable_id,
)
from lineside.subscribers.callback_host.trackers.background.event_clock import EventClock
from lineside.subscribers.callback_host.trackers.tracker import HookCall, RunEnd

# What Comet collects by itself describes the process that it runs in, which is not the training.
_OF_THIS_PROCESS = {
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_AUTO_LOG_CLI_ARGUMENTS": "false",
    "COMET_AUTO_LOG_CODE": "false",
    "COMET_AUTO_LOG_ENV_DETAILS": "false",
    "COMET_AUTO_LOG_GIT_METADATA": "false",
    "COMET_AUTO_LOG_GIT_PATCH": "false",
    "COMET_AUTO_LOG_OUTPUT_LOGGER": "false",
}
_MESSAGES = "messages.json"


class Comet(BackgroundTracker):
    """Comet, online or offline (``COMET_START_ONLINE=false``)."""

    name: ClassVar[str] = "comet"
    packages: ClassVar[tuple[str, ...]] = ("comet_ml",)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._clock = EventClock()
        self._written = 0

    def environment(self) -> dict[str, str]:
        given = self.run.facts.get("environment") or {}
        key = given.get("COMET_EXPERIMENT_KEY") or self.run.identity.get("experiment_key")
        if key is None:
            key = stable_id(self.run)[:40]
        self.run.identity["experiment_key"] = key
        # "create" would refuse the experiment that an earlier process or attempt has made.
        return _OF_THIS_PROCESS | {"COMET_EXPERIMENT_KEY": key, "COMET_MODE": "get_or_create"}

    def created(self, callback: Any) -> None:
        import comet_ml
        from comet_ml import messages
        from comet_ml.streamer.handlers.offline_handler import OfflineMessageHandler

        messages.local_timestamp = lambda: int(self._clock.time() * 1000)
        # It would measure the emissions of this process.
        config = comet_ml.ExperimentConfig
        comet_ml.ExperimentConfig = functools.partial(config, auto_log_co2=False)
        OfflineMessageHandler.handle = self._counted(OfflineMessageHandler.handle)
        folder = self.run.folder / "comet"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(folder)  # of offline experiments, so that a crash loses none
        for experiment in self.run.identity.pop("offline", []):
            _archive(**experiment)

    def before(self, call: HookCall) -> bool:
        self._clock.event_time = call.event.time
        return super().before(call)

    def after(self, call: HookCall) -> None:
        super().after(call)
        experiment = call.callback._experiment
        if experiment is not None and hasattr(experiment, "offline_directory"):
            self.run.identity["offline"] = [
                {
                    "key": experiment.id,
                    "data": experiment.tmpdir,
                    "directory": experiment.offline_directory,
                    "archive": experiment._get_offline_archive_file_name(),
                    "project": experiment.project_name,
                    "workspace": experiment.workspace,
                    "start": experiment.start_time,
                    "last": self._written,
                }
            ]

    def flush(self, callback: Any) -> None:
        experiment = callback._experiment
        if experiment is None or not experiment.alive:
            return
        if hasattr(experiment, "offline_directory"):
            self._wait_for_file(experiment)
        elif not experiment.flush(timeout=int(FLUSH_SECONDS)):
            raise NotDelivered(self.name, FLUSH_SECONDS)

    def _wait_for_file(self, experiment: Any) -> None:
        """Wait until the offline experiment's file has all messages up to now."""
        target = experiment.streamer._counter
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._written < target:
            if time.monotonic() > deadline:
                raise NotDelivered(self.name, FLUSH_SECONDS)
            time.sleep(0.002)

    def _counted(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        def handle_and_count(handler: Any, message: Any, context: Any) -> Any:
            try:
                return handle(handler, message, context)
            finally:
                self._written = max(self._written, message.message_id or 0)

        return handle_and_count

    def close(self, callback: Any, end: RunEnd) -> None:
        self._clock.event_time = None
        experiment = callback._experiment
        if experiment is None or not experiment.alive:
            return
        if end.status in ("failed", "lost"):
            error = end.error or {"type": "lost", "message": "the training process is gone"}
            experiment._report_experiment_error(
                f"{error['type']}: {error['message']}", has_crashed=True
            )
        self.flush(callback)
        experiment.end()
        self.run.identity.pop("offline", None)


def _archive(
    key: str,
    data: str,
    directory: str,
    archive: str,
    project: str | None,
    workspace: str | None,
    start: int,
    last: int,
) -> None:
    """Make the archive of an offline experiment whose process was killed.

    Messages behind ``last`` belong to events that are delivered again.
    """
    from comet_ml import offline_utils

    messages = Path(data, _MESSAGES)
    if not messages.is_file():
        return
    lines = messages.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["payload"].get("message_id", 0) <= last]
    messages.write_text("".join(kept), encoding="utf-8")
    offline_utils.write_experiment_meta_file(
        tempdir=data,
        experiment_key=key,
        workspace=workspace,
        project_name=project,
        start_time=start,
        stop_time=None,
        tags=[],
        resume_strategy="get_or_create",
        user_provided_experiment_key=True,
        comet_start_sourced=True,
    )
    offline_utils.create_experiment_archive(
        offline_directory=directory,
        offline_archive_file_name=archive,
        data_dir=data,
        logger=logging.getLogger(__name__),
    )
    shutil.rmtree(data, ignore_errors=True)
