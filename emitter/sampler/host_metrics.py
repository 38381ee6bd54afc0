"""Processor, memory, disks and network of this machine, and the file systems of a training."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from lineside.emitter.sampler.rates import per_second

_NETWORK = Path("/sys/class/net")


class HostMetrics:
    """Reads the machine. Rates and the processor's use are those since the last ``read``."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call only remembers
        self._counters, self._read_at = _counters(), time.monotonic()

    def read(self) -> dict[str, float]:
        """The metrics by name; one that the machine does not have is left out."""
        now, counters = time.monotonic(), _counters()
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        found = {
            "host/cpu_ratio": psutil.cpu_percent() / 100,
            "host/load1": os.getloadavg()[0],
            "host/memory_used_bytes": memory.total - memory.available,
            "host/memory_available_bytes": memory.available,
            "host/memory_total_bytes": memory.total,
            "host/swap_used_bytes": swap.used,
            **per_second(counters, self._counters, now - self._read_at),
        }
        self._counters, self._read_at = counters, now
        return found


def filesystem_metrics(folders: Mapping[str, Path]) -> dict[str, float]:
    """The free space where each of ``folders`` is, by the name given to it.

    A folder that does not exist yet is on the file system of the one above it.
    """
    found: dict[str, float] = {}
    for name, folder in folders.items():
        with contextlib.suppress(OSError):
            usage = psutil.disk_usage(str(_existing(folder)))
            found[f"filesystem/{name}/available_bytes"] = usage.free
            found[f"filesystem/{name}/size_bytes"] = usage.total
    return found


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))


def _counters() -> dict[str, float]:
    found: dict[str, float] = {}
    disks = psutil.disk_io_counters(nowrap=False)
    if disks is not None:  # none in some containers
        found["host/disk_read_bytes"] = disks.read_bytes
        found["host/disk_write_bytes"] = disks.write_bytes
    cards = psutil.net_io_counters(pernic=True, nowrap=False)
    counted = _physical(cards)
    found["host/network_receive_bytes"] = sum(cards[name].bytes_recv for name in counted)
    found["host/network_transmit_bytes"] = sum(cards[name].bytes_sent for name in counted)
    return found


def _physical(cards: Mapping[str, object]) -> list[str]:
    """The network cards that have a device; in a container none has, so all but the loopback.

    Bridges and bonds carry the same bytes a second time.
    """
    found = [name for name in cards if (_NETWORK / name / "device").exists()]
    return found or [name for name in cards if name != "lo"]
