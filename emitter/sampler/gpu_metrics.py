"""Every GPU of this machine, through NVML; without a driver there is nothing to read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lineside.emitter.sampler.failure_log import FailureLog

log = logging.getLogger("lineside")

_MILLI, _MEGA = 1e-3, 1e6
_MAX_XIDS = 1000  # taken at once
# Clock event reasons of heat and of the power supply: software and hardware, see nvml.h.
_SLOWDOWN_REASONS = 0x08 | 0x20 | 0x40 | 0x80

Reader = Callable[[Any, Any], dict[str, float]]


@dataclass
class Gpu:
    """One device; ``unsupported`` are the readings that it or its driver does not have."""

    index: int
    handle: Any
    name: str
    uuid: str
    xid_errors: int = 0
    last_xid: int | None = None
    unsupported: set[str] = field(default_factory=set)


class GpuMetrics:
    """Reads the GPUs through ``nvml``, the module ``pynvml``; None reads nothing.

    NVML reports an Xid error only to a process that waits for it, so these count from the start of
    this process.
    """

    def __init__(self, nvml: Any | None, failures: FailureLog) -> None:
        self._nvml = nvml
        self._failures = failures
        self._gpus: list[Gpu] = []
        self._xid_events: Any = None
        if nvml is not None:
            self._gpus = list(_find(nvml))
            with failures.catch("no Xid errors of the GPUs"):
                self._xid_events = self._register_xid_events(nvml)

    def describe(self) -> list[dict[str, Any]]:
        """The index, name and UUID of each GPU."""
        return [{"index": gpu.index, "name": gpu.name, "uuid": gpu.uuid} for gpu in self._gpus]

    def read(self) -> dict[str, float]:
        """The metrics by name, ``gpu0/...``; what a device does not report is left out."""
        nvml = self._nvml
        if nvml is None:
            return {}
        with self._failures.catch("no Xid errors of the GPUs"):
            self._take_xid_events(nvml)
        found: dict[str, float] = {}
        for gpu in self._gpus:
            values = self._read_one(nvml, gpu)
            found |= {f"gpu{gpu.index}/{name}": value for name, value in values.items()}
        return found

    def close(self) -> None:
        """Release the driver."""
        if self._nvml is not None:
            with self._failures.catch("the GPU driver cannot be released"):
                self._nvml.nvmlShutdown()

    def _read_one(self, nvml: Any, gpu: Gpu) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, reader in _READERS.items():
            if name in gpu.unsupported:
                continue
            with self._failures.catch(f"no metrics of GPU {gpu.index}"):
                try:
                    found |= reader(nvml, gpu.handle)
                except (
                    nvml.NVMLError_NotSupported,
                    nvml.NVMLError_FunctionNotFound,
                    AttributeError,
                ):
                    gpu.unsupported.add(name)
        if self._xid_events is not None:
            found["xid_errors_total"] = gpu.xid_errors
            if gpu.last_xid is not None:
                found["xid"] = gpu.last_xid
        return found

    def _register_xid_events(self, nvml: Any) -> Any:
        """The set of events that collects Xid errors; None if no device reports any."""
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return None
        registered = 0
        for gpu in self._gpus:
            try:
                nvml.nvmlDeviceRegisterEvents(
                    gpu.handle, nvml.nvmlEventTypeXidCriticalError, events
                )
                registered += 1
            except nvml.NVMLError:
                continue
        return events if registered else None

    def _take_xid_events(self, nvml: Any) -> None:
        if self._xid_events is None:
            return
        by_uuid = {gpu.uuid: gpu for gpu in self._gpus}
        try:
            for _ in range(_MAX_XIDS):
                event = nvml.nvmlEventSetWait_v2(self._xid_events, 0)
                gpu = by_uuid.get(_text(nvml.nvmlDeviceGetUUID(event.device)))
                if gpu is not None:
                    gpu.xid_errors += 1
                    gpu.last_xid = int(event.eventData)
                    log.warning("sampler: Xid %d on GPU %d", gpu.last_xid, gpu.index)
        except nvml.NVMLError:  # a timeout: there is no more
            return


def open_nvml() -> Any | None:
    """NVML, ready for use; None, with the reason in one line of the log, if it cannot be had."""
    try:
        import pynvml as nvml
    except ImportError:
        log.info("sampler: no GPU metrics: nvidia-ml-py is not installed")
        return None
    try:
        nvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything
        log.info("sampler: no GPU metrics: %s (%s)", error, type(error).__name__)
        return None
    return nvml


def _find(nvml: Any) -> Iterator[Gpu]:
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        log.warning("sampler: no GPU metrics: %s (%s)", error, type(error).__name__)
        return
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        except nvml.NVMLError as error:
            log.warning("sampler: no metrics of GPU %d: %s", index, error)
            continue
        yield Gpu(index, handle, _text(name), _text(uuid))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _utilization(nvml: Any, handle: Any) -> dict[str, float]:
    use = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"utilization_ratio": use.gpu / 100, "memory_copy_utilization_ratio": use.memory / 100}


def _memory(nvml: Any, handle: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"memory_used_bytes": memory.used, "memory_total_bytes": memory.total}


def _slowdown(nvml: Any, handle: Any) -> dict[str, float]:
    reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return {"slowdown": float(bool(reasons & _SLOWDOWN_REASONS))}


def _ecc(nvml: Any, handle: Any) -> dict[str, float]:
    def count(kind: int) -> int:
        return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_AGGREGATE_ECC))

    return {
        "ecc_corrected_errors_total": count(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        "ecc_uncorrected_errors_total": count(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    }


_READERS: dict[str, Reader] = {
    "utilization": _utilization,
    "memory": _memory,
    "power": lambda nvml, handle: {"power_watts": nvml.nvmlDeviceGetPowerUsage(handle) * _MILLI},
    "power limit": lambda nvml, handle: {
        "power_limit_watts": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) * _MILLI
    },
    "energy": lambda nvml, handle: {
        "energy_joules_total": nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * _MILLI
    },
    "temperature": lambda nvml, handle: {
        "temperature_celsius": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    },
    "clock": lambda nvml, handle: {
        "sm_clock_hertz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * _MEGA
    },
    "slowdown": _slowdown,
    "ecc": _ecc,
}
