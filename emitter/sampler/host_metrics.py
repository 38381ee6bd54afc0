"""Processor, memory, disks and network of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from lineside.emitter.sampler.failure_log import FailureLog
from lineside.emitter.sampler.rates import per_second

Reader = Callable[[], dict[str, float]]

_NETWORK = Path("/sys/class/net")


class HostMetrics:
    """Reads the machine. Rates and the processor's use are those since the last ``read``.

    What a machine does not have, or does not let this process read, is left out.
    """

    def __init__(self, failures: FailureLog) -> None:
        self._failures = failures
        self._counters: dict[str, float] = {}
        self._read_at = 0.0
        self.read()  # the first readings are only remembered

    def read(self) -> dict[str, float]:
        """The metrics by name."""
        now = time.monotonic()
        found, counters = self._collect(_GAUGES), self._collect(_COUNTERS)
        found |= per_second(counters, self._counters, now - self._read_at)
        self._counters, self._read_at = counters, now
        return found

    def _collect(self, readers: Mapping[str, Reader]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, reader in readers.items():
            with self._failures.catch(f"no metrics of the {name}"):
                found |= reader()
        return found


def _processor() -> dict[str, float]:
    return {"host/cpu_ratio": psutil.cpu_percent() / 100}


def _load() -> dict[str, float]:
    return {"host/load1": os.getloadavg()[0]}


def _memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "host/memory_used_bytes": memory.total - memory.available,
        "host/memory_available_bytes": memory.available,
        "host/memory_total_bytes": memory.total,
    }


def _swap() -> dict[str, float]:
    return {"host/swap_used_bytes": psutil.swap_memory().used}


def _disks() -> dict[str, float]:
    disks = psutil.disk_io_counters(nowrap=False)
    if disks is None:  # none in some containers
        return {}
    return {
        "host/disk_read_bytes": disks.read_bytes,
        "host/disk_write_bytes": disks.write_bytes,
    }


def _network() -> dict[str, float]:
    cards = psutil.net_io_counters(pernic=True, nowrap=False)
    counted = _physical(cards)
    if not counted:
        return {}
    return {
        "host/network_receive_bytes": sum(cards[name].bytes_recv for name in counted),
        "host/network_transmit_bytes": sum(cards[name].bytes_sent for name in counted),
    }


def _physical(cards: Mapping[str, object]) -> list[str]:
    """The network cards that have a device; in a container none has, so all but the loopback.

    Bridges and bonds carry the same bytes a second time.
    """
    found = [name for name in cards if (_NETWORK / name / "device").exists()]
    return found or [name for name in cards if name != "lo"]


_GAUGES: dict[str, Reader] = {
    "processor": _processor,
    "load": _load,
    "memory": _memory,
    "swap": _swap,
}
_COUNTERS: dict[str, Reader] = {"disks": _disks, "network": _network}
