"""A run whose events a test writes, archived without threads: each ``tick`` works off its plan."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lineside.bus.checkpoints.hold import hold_path
from lineside.bus.client.reader import Batch
from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.redaction.text import redact_text
from lineside.emitter.redaction.values import mask_names, mask_texts
from lineside.store.archive.archive import Archive
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.subscribers.archiver.archiver import Archiver
from lineside.subscribers.archiver.files.redaction import Redaction
from lineside.subscribers.archiver.options import ArchiverOptions
from lineside.subscribers.archiver.outcomes import ArchiveStatus
from lineside.subscribers.archiver.policy import KeepOptions
from lineside.subscribers.archiver.slots import Slots
from lineside.subscribers.archiver.tasks import ArchiveWork
from lineside.subscribers.context import RunFilter
from lineside.subscribers.event_loop import EventLoop
from lineside.subscribers.handler_runner import HandlerRunner, Setup
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.state.subscriber_state import SubscriberState

FIRST, SECOND = "20261129T000000-aaaa", "20261129T010000-bbbb"
START = 1_767_225_600.0


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""

    def content(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return content(one) == content(other)


class ScriptedRun:
    """The run ``r`` with its checkpoints in ``output``; ``now`` is the time of all parts."""

    def __init__(self, folder: Path, archive: Archive | None = None, **keep: Any) -> None:
        self.output = folder / "output"
        self.output.mkdir(exist_ok=True)
        self.archive = archive or open_archive(ArchiveLocation(str(folder / "archive")))
        self.now = START
        self.keep = keep
        self.verify = False
        self.runs = RunFilter()
        self._file = folder / "archiver.db"
        self._seqs: dict[Stream, int] = {}
        self._published = 0
        self.events: list[dict[str, Any]] = []
        self.reports: list[str] = []
        self.begin()

    def begin(self) -> None:
        """A process of the archiver begins."""
        self.status, self.slots = ArchiveStatus(), Slots()
        self._state = SubscriberState(self._file)
        self._loop = EventLoop()
        redaction = Redaction(redact_text, mask_names, mask_texts)
        options = ArchiverOptions(
            redaction, KeepOptions(**self.keep), self.verify, False, self.runs
        )
        work = ArchiveWork(self.archive, options)

        def make() -> Archiver:
            return Archiver(
                *(work, self.slots, self.status),
                clock=lambda: self.now,
                start=lambda target: target(),
            )

        setup = Setup(
            *("archiver", "stop", Archiver, make, Handlers(Archiver), self._state),
            *(RunFilter().matches, self._loop.wait_for, lambda: None),
        )
        self.runner = HandlerRunner(setup, "r")

    def end(self) -> None:
        """The process is killed: what was not kept is lost."""
        self._state.close()
        self._loop.close()

    def restart(self) -> None:
        self.end()
        self.begin()

    def send(
        self, kind: str, step: int = 0, attempt: str = FIRST, producer: str = "rank0", **data: Any
    ) -> None:
        """Have an event handled."""
        if kind == "checkpoint_request":
            data = {**data, "step": step, "attempt": attempt}
        stream = Stream("r", producer, attempt)
        seq = self._seqs[stream] = self._seqs.get(stream, -1) + 1
        self.runner.process(
            Batch(1, stream, (Event(seq, self.now, 0, kind, step, None, 0, data),), ())
        )
        self._collect()

    def start(self, attempt: str = FIRST, **facts: Any) -> None:
        self.send("run_start", attempt=attempt, **{"world_size": 1, **facts})

    def write(self, step: int, *, text: str = "", files: Sequence[str] = ()) -> Path:
        """Write a checkpoint as a Trainer does, in place if it is there."""
        folder = self.output / f"checkpoint-{step}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "weights.npz").write_text(text or f"weights of step {step}")
        for name in files:
            (folder / name).write_text(name)
        return folder

    def save(self, step: int, attempt: str = FIRST, *, text: str = "", **data: Any) -> Path:
        """Write a checkpoint, and publish that."""
        folder = self.write(step, text=text)
        self.send("save", step, attempt, checkpoint=str(folder), **data)
        return folder

    def hold(self, step: int, attempt: str = FIRST, evicted: Sequence[Any] = ()) -> Path:
        """Hold a checkpoint as training does, and publish that."""
        folder = self.output / f"checkpoint-{step}"
        hold = hold_path(folder)
        shutil.rmtree(hold, ignore_errors=True)
        shutil.copytree(folder, hold, copy_function=os.link)
        self.send(
            *("checkpoint_held", step, attempt),
            checkpoint=str(folder),
            hold=str(hold),
            why=None,
            bytes=1,
            files=2,
            evicted=evicted,
        )
        return hold

    def saved(self, step: int, attempt: str = FIRST, *, text: str = "", **data: Any) -> Path:
        """Save and hold a checkpoint, and rotate it away."""
        folder = self.save(step, attempt, text=text, **data)
        hold = self.hold(step, attempt)
        shutil.rmtree(folder)
        return hold

    def tick(self, seconds: float = 1.0, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            self.runner.tick(self.now)
        self._collect()

    def complete(self, until: Callable[[], Any] | None = None, seconds: float = 1.0) -> None:
        """Tick until nothing is left to do, or ``until`` holds."""
        for _ in range(200):
            self.tick(seconds)
            if until() if until else not self.runner.run.stays:
                return
        raise AssertionError(f"not done: {json.dumps(self.entries, indent=1)}")

    @property
    def entries(self) -> dict[int, dict[str, Any]]:
        """What is known of the newest checkpoint of each step."""
        return {one["step"]: one for one in self.runner.run.open_state().get("checkpoints", ())}

    @property
    def states(self) -> dict[int, str]:
        return {step: one["state"] for step, one in self.entries.items()}

    @property
    def archived(self) -> list[int]:
        """The steps that the archive has."""
        return sorted(key.step for key in self.archive.entries("r"))

    def published(self, step: int) -> list[str]:
        """The states of a checkpoint, as they were published."""
        return [one["state"] for one in self.events if one["step"] == step]

    def last_event(self, step: int) -> dict[str, Any]:
        return [one for one in self.events if one["step"] == step][-1]

    def restored(self, step: int, target: Path) -> Path:
        """The checkpoint of a step, restored from the archive."""
        [key] = [one for one in self.archive.entries("r") if one.step == step]
        self.archive.restore(self.archive.read_manifest(key), target)
        return target

    def _collect(self) -> None:
        for stream in self._state.pending_streams():
            for pending in self._state.pending(stream, 0, 1 << 20):
                publication = pending.publication
                if publication.kind.startswith("checkpoint_") and publication.data:
                    self.events.append({**publication.data, "time": publication.time})
                elif publication.kind == SUBSCRIBER_ERROR and publication.data:
                    self.reports.append(publication.data["error"]["message"])
            self._state.discard(stream)
