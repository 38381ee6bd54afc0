"""Panels of the machines of a run and their GPUs, from what the sampler publishes."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from deploy.grafana.source import panels
from deploy.grafana.source.panels import Query, curves


def machine(run: str) -> list[panels.AnyPanel]:
    """Of the machines; ``run`` selects the series of a run."""
    host = "{{host}}"
    return [
        curves(
            "Processor",
            units.PercentUnit,
            Query(f"lineside_host_cpu_ratio{{{run}}}", host),
            maximum=1,
        ),
        curves("Load", units.Short, Query(f"lineside_host_load1{{{run}}}", host)),
        curves(
            "Processor time of the training",
            units.Short,
            Query(f"lineside_training_cpu_cores{{{run}}}", f"{host}: cores"),
            Query(f"lineside_training_processes{{{run}}}", f"{host}: processes"),
            Query(f"lineside_training_threads{{{run}}}", f"{host}: threads"),
        ),
        curves(
            "Memory of the machine",
            units.BytesIEC,
            Query(f"lineside_host_memory_used_bytes{{{run}}}", f"{host}: used"),
            Query(f"lineside_host_memory_available_bytes{{{run}}}", f"{host}: available"),
            Query(f"lineside_host_memory_total_bytes{{{run}}}", f"{host}: in all"),
            Query(f"lineside_host_swap_used_bytes{{{run}}}", f"{host}: swap"),
        ),
        curves(
            "Memory of the training",
            units.BytesIEC,
            Query(f"lineside_training_resident_memory_bytes{{{run}}}", f"{host}: all processes"),
            Query(f"lineside_rank_resident_memory_bytes{{{run}}}", "rank {{rank}}"),
            Query(f"lineside_cgroup_memory_working_set_bytes{{{run}}}", f"{host}: cgroup"),
            Query(f"lineside_cgroup_memory_limit_bytes{{{run}}}", f"{host}: limit of the cgroup"),
        ),
        curves(
            "Space left",
            units.BytesIEC,
            Query(f"lineside_filesystem_available_bytes{{{run}}}", f"{host}: {{{{filesystem}}}}"),
            Query(
                f"lineside_filesystem_size_bytes{{{run}}}", f"{host}: size of {{{{filesystem}}}}"
            ),
        ),
        curves(
            "Disks",
            units.BytesPerSecondIEC,
            Query(f"lineside_host_disk_read_bytes_per_second{{{run}}}", f"{host}: read"),
            Query(f"lineside_host_disk_write_bytes_per_second{{{run}}}", f"{host}: written"),
        ),
        curves(
            "Disks, of the training",
            units.BytesPerSecondIEC,
            Query(f"lineside_training_disk_read_bytes_per_second{{{run}}}", f"{host}: read"),
            Query(f"lineside_training_disk_write_bytes_per_second{{{run}}}", f"{host}: written"),
        ),
        curves(
            "Network",
            units.BytesPerSecondIEC,
            Query(f"lineside_host_network_receive_bytes_per_second{{{run}}}", f"{host}: received"),
            Query(f"lineside_host_network_transmit_bytes_per_second{{{run}}}", f"{host}: sent"),
        ),
    ]


def gpus(run: str) -> list[panels.AnyPanel]:
    """Of the GPUs of these machines."""
    gpu = "{{host}} {{gpu}}"
    return [
        curves(
            "Utilization",
            units.PercentUnit,
            Query(f"lineside_gpu_utilization_ratio{{{run}}}", gpu),
            maximum=1,
        ),
        curves(
            "Memory",
            units.BytesIEC,
            Query(f"lineside_gpu_memory_used_bytes{{{run}}}", gpu),
            Query(f"lineside_gpu_memory_total_bytes{{{run}}}", f"{gpu}: in all"),
        ),
        curves(
            "Memory bus",
            units.PercentUnit,
            Query(f"lineside_gpu_memory_copy_utilization_ratio{{{run}}}", gpu),
            maximum=1,
        ),
        curves(
            "Power",
            units.Watt,
            Query(f"lineside_gpu_power_watts{{{run}}}", gpu),
            Query(f"lineside_gpu_power_limit_watts{{{run}}}", f"{gpu}: limit"),
        ),
        curves(
            "Temperature",
            units.Celsius,
            Query(f"lineside_gpu_temperature_celsius{{{run}}}", gpu),
        ),
        curves("Clock", units.Hertz, Query(f"lineside_gpu_sm_clock_hertz{{{run}}}", gpu)),
        curves(
            "Slowed by heat or power",
            units.PercentUnit,
            Query(f"avg_over_time(lineside_gpu_slowdown{{{run}}}[$__rate_interval])", gpu),
            maximum=1,
            description="Share of the time.",
        ),
        curves(
            "Energy in the range shown",
            units.Joule,
            Query(f"increase(lineside_gpu_energy_joules_total{{{run}}}[$__range])", gpu),
        ),
        panels.rows(
            "Errors",
            f"max by (host, gpu) (lineside_gpu_ecc_uncorrected_errors_total{{{run}}})",
            [
                panels.Column(title, f"max by (host, gpu) (lineside_gpu_{name}{{{run}}})")
                for title, name in (
                    ("Not corrected", "ecc_uncorrected_errors_total"),
                    ("Corrected", "ecc_corrected_errors_total"),
                    ("Xid errors", "xid_errors_total"),
                    ("Last Xid", "xid"),
                )
            ],
            labels={"host": "Host", "gpu": "GPU"},
            span=8,
        ),
    ]
