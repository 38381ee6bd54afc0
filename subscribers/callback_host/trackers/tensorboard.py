"""TensorBoard: event files with the times of the events, each value once."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun, RunEnd, Tracker

_WRITER_MODULE = "torch.utils.tensorboard"
_TEXTS = ("args", "model_config")  # written whenever the callback begins


class TensorBoard(Tracker):
    """Stands in for torch's ``SummaryWriter``, so the process needs no torch."""

    name: ClassVar[str] = "tensorboard"
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)

    def __init__(self, run: HostedRun) -> None:
        super().__init__(run)
        self.now = run.started_at
        self.purge_step: int | None = None

    def environment(self) -> dict[str, str]:
        module = ModuleType(_WRITER_MODULE)
        module.SummaryWriter = self._open_writer  # type: ignore[attr-defined]
        sys.modules[_WRITER_MODULE] = module
        folder = self.run.identity.setdefault("folder", str(self._default_folder()))
        return {"TENSORBOARD_LOGGING_DIR": folder}

    def before(self, call: HookCall) -> bool:
        self.now = call.event.time
        if hasattr(type(call.args), "logging_dir") and not call.args.logging_dir:
            # transformers 4 takes the folder from here; the training's 5 has no such argument.
            call.args.logging_dir = os.environ["TENSORBOARD_LOGGING_DIR"]
        if call.hook == "on_train_begin":
            began_before = self.run.identity.get("attempt", self.run.attempt)
            if began_before != self.run.attempt and call.state.global_step:
                self.purge_step = call.state.global_step + 1
        return True

    def after(self, call: HookCall) -> None:
        writer = call.callback.tb_writer
        if isinstance(writer, EventWriter):
            try:
                writer.flush()
            except OSError:
                call.callback.tb_writer = None
                raise
        self.run.identity["attempt"] = self.run.attempt

    def is_delivery_error(self, error: Exception) -> bool:
        return isinstance(error, OSError)

    def suspend(self, callback: Any) -> None:
        if callback.tb_writer is not None:
            callback.tb_writer.flush()

    def close(self, callback: Any, end: RunEnd) -> None:
        if callback.tb_writer is not None:
            callback.tb_writer.close()
            callback.tb_writer = None

    def is_new_text(self, tag: str, text: str) -> bool:
        """Whether a text of the callback's begin differs from the one written last."""
        if tag not in _TEXTS:
            return True
        texts = self.run.identity.setdefault("texts", {})
        digest = hashlib.sha256(text.encode()).hexdigest()
        is_new: bool = texts.get(tag) != digest
        texts[tag] = digest
        return is_new

    def _open_writer(self, log_dir: str) -> EventWriter:
        writer = EventWriter(Path(log_dir), self)
        if self.purge_step is not None:
            writer.purge(self.purge_step)
            self.purge_step = None
        return writer

    def _default_folder(self) -> Path:
        """The folder that the callback would have chosen in the training process."""
        facts = self.run.facts
        process = facts.get("process", {})
        cwd = Path(process.get("cwd") or self.run.folder)
        given = facts.get("environment", {}).get("TENSORBOARD_LOGGING_DIR")
        given = given or facts.get("args", {}).get("logging_dir")  # transformers 4
        if given:
            folder = cwd / Path(given).expanduser()
        else:
            start = time.strftime("%b%d_%H-%M-%S", time.localtime(self.run.started_at))
            output = facts.get("args", {}).get("output_dir") or "."
            folder = cwd / output / "runs" / f"{start}_{process.get('host', 'localhost')}"
        if cwd.is_dir():
            return folder
        return self.run.folder / "tensorboard" / folder.name


class EventWriter:
    """The part of torch's ``SummaryWriter`` that the callback uses.

    An event that is handed over again finds what it wrote before in the files of the folder.
    """

    def __init__(self, folder: Path, tracker: TensorBoard) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._tracker = tracker
        self._written = set(_newest_values(folder))
        self._file = EventFileWriter(str(folder))

    def add_scalar(self, tag: str, value: float, step: int | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary.Value(tag=tag, simple_value=float(value)), step)

    def add_text(self, tag: str, text: str, step: int | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData

        if not self._tracker.is_new_text(tag, text):
            return
        content = TextPluginData(version=0).SerializeToString()
        plugin = SummaryMetadata.PluginData(plugin_name="text", content=content)
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[text.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        metadata = SummaryMetadata(plugin_data=plugin)
        self._add(Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor), step)

    def purge(self, step: int) -> None:
        """Have TensorBoard drop what was written from ``step`` on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        log = SessionLog(status=SessionLog.START)
        self._file.add_event(Event(wall_time=self._tracker.now, step=step, session_log=log))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, value: Any, step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = self._tracker.now
        key = (value.tag, step or 0, now)
        if key in self._written:
            return
        self._file.add_event(Event(wall_time=now, step=step or 0, summary=Summary(value=[value])))
        self._written = {one for one in self._written if one[2] >= now} | {key}


def _newest_values(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and time of what the newest event file with values of a hook holds."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    texts = {f"{tag}/text_summary" for tag in _TEXTS}
    for file in reversed(files):
        values = [
            (value.tag, event.step, event.wall_time)
            for event in LegacyEventFileLoader(str(file)).Load()
            for value in event.summary.value
        ]
        yield from values
        if any(tag not in texts for tag, _, _ in values):
            return
