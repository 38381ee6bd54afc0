"""A stand-in for the NVML library: two GPUs, the second without ECC."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml


class FakeNvml:
    """The functions of pynvml over two devices; everything else is pynvml's own."""

    def __init__(self) -> None:
        self.shut = False
        self.xids: list[tuple[int, int]] = []  # device, Xid
        self.broken: set[int] = set()
        self.without_ecc: set[int] = {1}

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def _check(self, handle: int) -> None:
        if handle in self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA H200"

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:  # noqa: N802
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        self._check(handle)
        return SimpleNamespace(gpu=83, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        self._check(handle)
        return SimpleNamespace(used=3 << 30, total=140 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        self._check(handle)
        return 512_300

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:  # noqa: N802
        self._check(handle)
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        self._check(handle)
        return 9_000

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        self._check(handle)
        return 61

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        assert kind == pynvml.NVML_CLOCK_SM
        self._check(handle)
        return 1980

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:  # noqa: N802
        self._check(handle)
        thermal: int = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
        return thermal if handle == 1 else pynvml.nvmlClocksEventReasonGpuIdle

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:  # noqa: N802
        assert counter == pynvml.NVML_AGGREGATE_ECC
        if handle in self.without_ecc:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 7 if kind == pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED else 2

    def nvmlEventSetCreate(self) -> object:  # noqa: N802
        return object()

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:  # noqa: N802
        assert kinds == pynvml.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:  # noqa: N802
        assert timeout_ms == 0
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        device, xid = self.xids.pop(0)
        return SimpleNamespace(device=device, eventData=xid)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut = True
