"""GPUs are read through NVML; here a stand-in for the library, as no machine of CI has a GPU."""

from __future__ import annotations

import logging

import pynvml
import pytest

from lineside.emitter.sampler.failure_log import FailureLog
from lineside.emitter.sampler.gpu_metrics import GpuMetrics, open_nvml
from tests.emitter.sampler.fake_nvml import FakeNvml


def test_every_gpu_is_read_in_base_units() -> None:
    gpus = GpuMetrics(FakeNvml(), FailureLog())
    metrics = gpus.read()
    first = {name: value for name, value in metrics.items() if name.startswith("gpu0/")}
    assert first == {
        "gpu0/utilization_ratio": 0.83,
        "gpu0/memory_copy_utilization_ratio": 0.4,
        "gpu0/memory_used_bytes": 3 << 30,
        "gpu0/memory_total_bytes": 140 << 30,
        "gpu0/power_watts": pytest.approx(512.3),
        "gpu0/power_limit_watts": pytest.approx(700),
        "gpu0/energy_joules_total": pytest.approx(9),
        "gpu0/temperature_celsius": 61,
        "gpu0/sm_clock_hertz": 1.98e9,
        "gpu0/slowdown": 0,
        "gpu0/ecc_corrected_errors_total": 7,
        "gpu0/ecc_uncorrected_errors_total": 2,
        "gpu0/xid_errors_total": 0,
    }
    assert metrics["gpu1/slowdown"] == 1
    assert gpus.describe() == [
        {"index": 0, "name": "NVIDIA H200", "uuid": "GPU-0"},
        {"index": 1, "name": "NVIDIA H200", "uuid": "GPU-1"},
    ]


def test_a_reading_that_a_gpu_does_not_have_is_left_out() -> None:
    metrics = GpuMetrics(FakeNvml(), FailureLog()).read()
    assert "gpu0/ecc_corrected_errors_total" in metrics
    assert "gpu1/ecc_corrected_errors_total" not in metrics
    assert "gpu1/power_watts" in metrics


def test_a_gpu_that_is_lost_does_not_hide_the_others_and_may_come_back() -> None:
    nvml = FakeNvml()
    gpus = GpuMetrics(nvml, FailureLog())
    nvml.broken = {0}
    metrics = gpus.read()
    assert "gpu0/power_watts" not in metrics
    assert metrics["gpu1/power_watts"] == pytest.approx(512.3)
    nvml.broken = set()
    assert gpus.read()["gpu0/power_watts"] == pytest.approx(512.3)


@pytest.mark.parametrize(
    "name",
    [one for one in vars(FakeNvml) if one.startswith(("nvmlDeviceGet", "nvmlEventSetWait"))],
)
def test_a_call_of_the_driver_that_raises_anything_costs_no_more_than_its_own_metrics(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    nvml, failures = FakeNvml(), FailureLog()
    gpus = GpuMetrics(nvml, failures)
    whole = set(gpus.read())

    def fail(*_arguments: object) -> None:
        raise OSError("a broken library")

    setattr(nvml, name, fail)
    found = [set(gpus.read()) for _ in range(3)][-1]
    assert len(found) >= len(whole) - 4
    assert len(caplog.records) <= 2, "it is logged at each sample"
    gpus.close()


def test_xid_errors_are_counted_for_the_gpu_that_had_them() -> None:
    nvml = FakeNvml()
    gpus = GpuMetrics(nvml, FailureLog())
    nvml.xids = [(1, 31), (1, 79)]
    metrics = gpus.read()
    assert (metrics["gpu1/xid_errors_total"], metrics["gpu1/xid"]) == (2, 79)
    assert metrics["gpu0/xid_errors_total"] == 0
    assert "gpu0/xid" not in metrics
    assert gpus.read()["gpu1/xid_errors_total"] == 2


def test_the_driver_is_released() -> None:
    nvml = FakeNvml()
    GpuMetrics(nvml, FailureLog()).close()
    assert nvml.shut


def test_a_machine_without_a_driver_has_no_gpu_metrics(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    with caplog.at_level(logging.INFO, "lineside"):
        nvml = open_nvml()
    assert nvml is None
    assert GpuMetrics(nvml, FailureLog()).read() == {}
    (record,) = caplog.records
    assert "NVMLError_LibraryNotFound" in record.getMessage()
