"""Processor, memory and disk use of process trees, from one pass over /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from lineside.emitter.sampler.rates import per_second

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_TICK_SECONDS = 1 / _TICKS
_LONGEST_FILE = 4096
_IO_COUNTERS = {
    b"read_bytes:": "process/disk_read_bytes",
    b"write_bytes:": "process/disk_write_bytes",
}


class Process(NamedTuple):
    """What the kernel counts for one process; ``started`` in clock ticks since the boot."""

    pid: int
    parent: int
    cpu_seconds: float
    threads: int
    started: int
    resident_bytes: int


class ProcessTable(dict[int, Process]):
    """Every process at one moment, by its id.

    psutil would read all of /proc once for each tree and again for the figures of each process.
    """

    @classmethod
    def read(cls) -> ProcessTable:
        with os.scandir("/proc") as entries:
            pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
        return cls((one.pid, one) for one in map(_read, pids) if one is not None)

    def tree(self, roots: Collection[int]) -> list[Process]:
        """The processes ``roots`` and all that descend from them, each once."""
        children: dict[int, list[int]] = {}
        for one in self.values():
            children.setdefault(one.parent, []).append(one.pid)
        found: dict[int, Process] = {}
        left = [pid for pid in roots if pid in self]
        while left:
            pid = left.pop()
            if pid not in found:
                found[pid] = self[pid]
                left += children.get(pid, ())
        return list(found.values())


def _seconds_since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class TreeMetrics:
    """The figures of one training's processes, summed. Rates are those since the last ``read``,
    at first since ``tree`` was read. ``clock`` returns seconds since the boot."""

    def __init__(
        self, tree: Iterable[Process], clock: Callable[[], float] = _seconds_since_boot
    ) -> None:
        self._clock = clock
        self._counters, self._read_at = _counters_of(tree), clock()

    def read(self, tree: Iterable[Process]) -> dict[str, float]:
        """The metrics by name."""
        processes, now = list(tree), self._clock()
        counters = _counters_of(processes)
        rates: dict[str, float] = {"process/cpu_seconds_per_second": 0.0}
        # Process by process: one that has ended takes its counters with it. One that is not known
        # began at zero if it is new; else, as a rank that joins, it has no earlier reading.
        for (pid, started), values in counters.items():
            before = self._counters.get((pid, started), {})
            if not before and started / _TICKS >= self._read_at - _TICK_SECONDS:
                before = dict.fromkeys(values, 0.0)
            for name, rate in per_second(values, before, now - self._read_at).items():
                rates[name] = rates.get(name, 0.0) + rate
        self._counters, self._read_at = counters, now
        return {
            "process/count": len(processes),
            "process/threads": sum(one.threads for one in processes),
            "process/resident_memory_bytes": sum(one.resident_bytes for one in processes),
            "process/cpu_cores": rates.pop("process/cpu_seconds_per_second"),
            **rates,
        }


def _counters_of(tree: Iterable[Process]) -> dict[tuple[int, int], dict[str, float]]:
    return {(one.pid, one.started): _counters(one) for one in tree}


def _read(pid: int) -> Process | None:
    try:
        stat = _content(f"/proc/{pid}/stat")
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] == b"Z":  # it has ended and its parent has not asked how
            return None
        return Process(
            pid,
            parent=int(fields[1]),
            cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
            threads=int(fields[17]),
            started=int(fields[19]),
            resident_bytes=int(fields[21]) * _PAGE_BYTES,
        )
    except (OSError, ValueError, IndexError):  # it has ended
        return None


def _content(path: str) -> bytes:
    """The content of a short file: a machine may have thousands, and Path takes twice as long."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST_FILE)
    finally:
        os.close(fd)


def _counters(one: Process) -> dict[str, float]:
    found = {"process/cpu_seconds": one.cpu_seconds}
    try:
        lines = _content(f"/proc/{one.pid}/io").splitlines()
    except OSError:  # another user's, or a kernel without these counters
        return found
    for line in lines:
        name, _, value = line.partition(b" ")
        if name in _IO_COUNTERS:
            found[_IO_COUNTERS[name]] = float(value)
    return found
