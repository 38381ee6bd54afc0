"""The sampler: publishes the machine's metrics for each training of a spool that runs on it.

It writes into the spool, as the training does: the shipper sends it with the training's own key,
nothing is lost while no broker runs, and this process needs no connection and never waits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.event_kinds import METRICS
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.bus.service import Service, lower_priority
from lineside.bus.settings import make_private_folder
from lineside.emitter.sampler.cgroup_metrics import cgroup_metrics
from lineside.emitter.sampler.failure_log import FailureLog
from lineside.emitter.sampler.filesystem_metrics import FilesystemMetrics
from lineside.emitter.sampler.gpu_metrics import GpuMetrics, open_nvml
from lineside.emitter.sampler.host_metrics import HostMetrics
from lineside.emitter.sampler.process_metrics import Process, ProcessTable, TreeMetrics
from lineside.emitter.sampler.starter import lock_name, log_name, sampler_name, stopped_sampler
from lineside.emitter.sampler.trainings import Training, Trainings
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.sidecar_process import rotate_log
from lineside.emitter.spool.writer import SpoolWriter

log = logging.getLogger("lineside")

INTERVAL_SECONDS = 10.0
IDLE_SECONDS = 3.0
"""How long a sampler waits for another training: a process often trains again at once."""
CAP_BYTES = 64 << 20
"""What may wait in the spool for each run: some days without a broker."""
_SEGMENT_BYTES = 1 << 20
_FIRST_SAMPLE_SECONDS = 1.0  # rates need two readings
_CHECK_SECONDS = 0.5
# A machine with many processes takes long to read: use at most this share of one core.
_LARGEST_SHARE = 0.002
_HANG_SECONDS = 60.0


class Sampler(Service):
    """Samples this machine every ``interval`` seconds for the trainings under ``spool``.

    Ends when no training has run for ``idle_timeout`` seconds, or if another sampler of this
    machine serves the spool.
    """

    name = "sampler"

    def __init__(
        self,
        spool: Path,
        *,
        interval: float = INTERVAL_SECONDS,
        idle_timeout: float = IDLE_SECONDS,
    ) -> None:
        super().__init__()
        self._spool = spool
        self._interval = interval
        self._idle_timeout = idle_timeout
        self._lock: int | None = None
        self._trainings = Trainings(spool)
        self._streams: dict[str, _RunStream] = {}
        self._try_at: dict[str, float] = {}  # runs whose stream could not be made
        self._failures = FailureLog()
        self._host = HostMetrics(self._failures)
        self._gpus = GpuMetrics(None, self._failures)
        self._filesystems = FilesystemMetrics()
        now = time.monotonic()
        self._sample_at = now + min(_FIRST_SAMPLE_SECONDS, interval)
        self._live_at = now

    def startup(self) -> None:
        """Take the lock of this machine's sampler; if another has it, end, or wait as a service.

        Raises:
            SettingsError: the spool cannot be made or written.
        """
        if self._claim():
            self._begin()
        else:
            self.should_exit = math.isfinite(self._idle_timeout)
            stopped = stopped_sampler(self._spool)
            if stopped is not None:
                log.warning("sampler: %s", stopped)
            else:
                log.info("sampler: another one samples for %s", self._spool)

    def _begin(self) -> None:
        rotate_log(self._spool / log_name())
        lower_priority()
        with _end_if_it_hangs(), self._failures.catch("no GPU metrics"):
            self._gpus = GpuMetrics(open_nvml(), self._failures)

    def run_once(self) -> None:
        """Look for trainings, sample if it is time, and end if none is left."""
        if self._lock is None:
            time.sleep(_CHECK_SECONDS)
            if self._claim():
                self._begin()
            return
        with self._failures.catch("a turn failed"):
            self._work(time.monotonic())
        if time.monotonic() - self._live_at >= self._idle_timeout:
            self._exit_unless_needed()
        else:
            time.sleep(_CHECK_SECONDS)

    def shutdown(self) -> None:
        """Close the streams and release the lock."""
        for stream in self._streams.values():
            stream.writer.close()
        self._streams.clear()
        self._gpus.close()
        self._release()

    def _work(self, now: float) -> None:
        if self._trainings.update():
            self._live_at = now
        self._follow_trainings()
        if now < self._sample_at:
            return
        used = time.process_time()
        self._sample_at = now + self._interval
        with _end_if_it_hangs():
            self._sample()
        cost = time.process_time() - used
        self._sample_at = now + max(self._interval, cost / _LARGEST_SHARE)

    def _follow_trainings(self) -> None:
        """Open a stream for each new run, and close those of runs that have ended here."""
        trainings = {training.run: training for training in self._trainings}
        for run in self._streams.keys() - trainings.keys():
            self._streams.pop(run).writer.close()
        now = time.monotonic()
        new = [
            run
            for run in trainings.keys() - self._streams.keys()
            if now >= self._try_at.get(run, now)
        ]
        table = ProcessTable.read() if new else ProcessTable()
        for run in new:
            tree = table.tree(trainings[run].pids)
            try:
                self._streams[run] = _RunStream(self._spool, run, tree, self._describe())
            except (OSError, LinesideError) as error:
                if run not in self._try_at:
                    log.warning("sampler: %s cannot be sampled now: %s", run, error)
                self._try_at[run] = now + self._interval
                continue
            # Its own first sample, soon: the next regular one may come after its end.
            self._sample_at = min(self._sample_at, time.monotonic() + _FIRST_SAMPLE_SECONDS)

    def _describe(self) -> dict[str, Any]:
        return {"host": platform.node(), "cpus": os.cpu_count(), "gpus": self._gpus.describe()}

    def _sample(self) -> None:
        trainings = [one for one in self._trainings if one.run in self._streams]
        if not trainings:
            return
        table = ProcessTable()
        with self._failures.catch("no metrics of the training's processes"):
            table = ProcessTable.read()
        common = self._host.read() | self._gpus.read()
        self._filesystems.ask({training.output_folder for training in trainings} | {self._spool})
        for training in trainings:
            folders = {"output": training.output_folder, "spool": self._spool}
            with self._failures.catch(f"no sample for {training.run}"):
                space = self._filesystems.read(folders)
                self._streams[training.run].publish(training, table, common | space)

    def _exit_unless_needed(self) -> None:
        """End, unless a training began that saw the lock held and so started no sampler."""
        self._release()
        if self._trainings.update() and self._claim():
            self._live_at = time.monotonic()
        else:
            self.should_exit = True

    def _claim(self) -> bool:
        make_private_folder(self._spool)
        self._lock = liveness_lock.acquire(self._spool / lock_name())
        return self._lock is not None

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def _end_if_it_hangs() -> Iterator[None]:
    """End this process, with a traceback in the log, if the block takes longer than a minute.

    A driver may hang in a call, where no exception and no signal handler of Python reaches it.
    """
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class _RunStream:
    """The stream of one run, and the figures of its processes.

    Raises:
        SettingsError, OSError: the stream cannot be made.
    """

    def __init__(self, spool: Path, run: str, tree: list[Process], machine: dict[str, Any]) -> None:
        stream = Stream(run, sampler_name(), new_attempt())
        self.writer = SpoolWriter(
            spool, stream, role="sampler", cap=CAP_BYTES, segment=_SEGMENT_BYTES
        )
        self._machine: dict[str, Any] | None = machine
        self._tree = TreeMetrics(tree)

    def publish(self, training: Training, table: ProcessTable, common: dict[str, float]) -> None:
        """Write one event; the first also describes the machine."""
        metrics = common | cgroup_metrics(min(training.pids))
        if table:
            metrics |= self._tree.read(table.tree(training.pids))
        data: dict[str, Any] = {"metrics": metrics}
        if self._machine is not None:
            data["machine"] = self._machine
            self._machine = None
        self.writer.write(METRICS, training.step, data=data)
        self.writer.maintain()
