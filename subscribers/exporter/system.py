"""Families for the metrics of a sampler, whose names are ``host/cpu_ratio`` or ``gpu0/xid``.

The sampler names them in docs/reference/system-metrics.md. Any other name of a sampler, as of a
later version, is a metric of the run like those of other producers.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from lineside.subscribers.exporter.families import COUNTER, GAUGE, Family

MAX_VALUES = 2_000
"""System metrics of one run that have series: those of all its machines and their GPUs."""
SECONDS = 60.0
"""How long a value is shown after its machine last reported any."""

# One name for each series: two that lead to the same one would spoil the page for Prometheus.
_NAME = re.compile(
    r"(?:gpu(?P<gpu>0|[1-9][0-9]{0,3})|filesystem/(?P<filesystem>[a-z]{1,32})"
    r"|(?P<group>host|cgroup|process))/([a-z0-9_]+)"
)


class SystemMetric(NamedTuple):
    """Where a metric of a sampler goes: its family, and labels beside the host's, as on a page."""

    family: str
    labels: str


def _family(name: str, text: str, *labels: str, kind: str = GAUGE) -> Family:
    return Family(f"lineside_{name}", kind, text, ("host", *labels))


def _gpu(name: str, text: str, kind: str = GAUGE) -> Family:
    return _family(f"gpu_{name}", text, "gpu", kind=kind)


_BY_NAME = {
    "host/cpu_ratio": _family("host_cpu_ratio", "Share of all cores that was busy."),
    "host/load1": _family("host_load1", "Load of the machine, mean of one minute."),
    "host/memory_used_bytes": _family("host_memory_used_bytes", "Memory in use, without caches."),
    "host/memory_available_bytes": _family(
        "host_memory_available_bytes", "Memory that programs could get without swapping."
    ),
    "host/memory_total_bytes": _family("host_memory_total_bytes", "Memory of the machine."),
    "host/swap_used_bytes": _family("host_swap_used_bytes", "Swap in use."),
    "host/disk_read_bytes_per_second": _family(
        "host_disk_read_bytes_per_second", "Read from all disks."
    ),
    "host/disk_write_bytes_per_second": _family(
        "host_disk_write_bytes_per_second", "Written to all disks."
    ),
    "host/network_receive_bytes_per_second": _family(
        "host_network_receive_bytes_per_second", "Received by all network cards."
    ),
    "host/network_transmit_bytes_per_second": _family(
        "host_network_transmit_bytes_per_second", "Sent by all network cards."
    ),
    "cgroup/memory_working_set_bytes": _family(
        "cgroup_memory_working_set_bytes", "Memory of the training's cgroup in use."
    ),
    "cgroup/memory_limit_bytes": _family(
        "cgroup_memory_limit_bytes", "The limit of the training's memory cgroup."
    ),
    "filesystem/available_bytes": _family(
        "filesystem_available_bytes",
        "Space left where the training writes (output) and where its spool is.",
        "filesystem",
    ),
    "filesystem/size_bytes": _family(
        "filesystem_size_bytes", "Size of these file systems.", "filesystem"
    ),
    "process/count": _family("training_processes", "Processes of the training and their children."),
    "process/threads": _family("training_threads", "Threads of these processes."),
    "process/cpu_cores": _family("training_cpu_cores", "Cores that these processes use."),
    "process/resident_memory_bytes": _family(
        "training_resident_memory_bytes", "Memory of these processes."
    ),
    "process/disk_read_bytes_per_second": _family(
        "training_disk_read_bytes_per_second", "What these processes read from disks."
    ),
    "process/disk_write_bytes_per_second": _family(
        "training_disk_write_bytes_per_second", "What these processes wrote to disks."
    ),
    "gpu/utilization_ratio": _gpu("utilization_ratio", "Share of time in which a kernel ran."),
    "gpu/memory_copy_utilization_ratio": _gpu(
        "memory_copy_utilization_ratio", "Share of time in which memory was read or written."
    ),
    "gpu/memory_used_bytes": _gpu("memory_used_bytes", "Memory in use, by all processes."),
    "gpu/memory_total_bytes": _gpu("memory_total_bytes", "Memory of the GPU."),
    "gpu/power_watts": _gpu("power_watts", "Power drawn."),
    "gpu/power_limit_watts": _gpu("power_limit_watts", "The limit of the power drawn."),
    "gpu/energy_joules_total": _gpu(
        "energy_joules_total", "Energy since the driver was loaded.", COUNTER
    ),
    "gpu/temperature_celsius": _gpu("temperature_celsius", "Temperature of the chip."),
    "gpu/sm_clock_hertz": _gpu("sm_clock_hertz", "Clock of the multiprocessors."),
    "gpu/slowdown": _gpu("slowdown", "1 while heat or the power supply slows the clock, else 0."),
    "gpu/ecc_corrected_errors_total": _gpu(
        "ecc_corrected_errors_total", "Memory errors that were corrected.", COUNTER
    ),
    "gpu/ecc_uncorrected_errors_total": _gpu(
        "ecc_uncorrected_errors_total", "Memory errors that were not corrected.", COUNTER
    ),
    "gpu/xid_errors_total": _gpu(
        "xid_errors_total", "Xid errors since the sampler started.", COUNTER
    ),
    "gpu/xid": _gpu("xid", "The number of the last Xid error."),
}

SYSTEM_FAMILIES = tuple(_BY_NAME.values())
"""The families of the samplers' metrics."""


@lru_cache(maxsize=10_000)
def system_metric(name: str) -> SystemMetric | None:
    """Where the sampler's metric ``name`` goes; None if it has no family."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    gpu, filesystem = found["gpu"], found["filesystem"]
    group = found["group"] or ("gpu" if gpu else "filesystem")
    family = _BY_NAME.get(f"{group}/{found[4]}")
    if family is None:
        return None
    label = f',gpu="{gpu}"' if gpu else f',filesystem="{filesystem}"' if filesystem else ""
    return SystemMetric(family.name, label)
