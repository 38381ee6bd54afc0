"""docs/reference/system-metrics.md lists the metrics that a sampler publishes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lineside.emitter.sampler.gpu_metrics import GpuMetrics
from lineside.emitter.sampler.host_metrics import HostMetrics, filesystem_metrics
from lineside.emitter.sampler.process_metrics import ProcessTable, TreeMetrics
from tests.emitter.sampler.fake_nvml import FakeNvml

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "system-metrics.md"


def test_published_and_documented_metrics_are_the_same() -> None:
    nvml = FakeNvml()
    nvml.xids = [(0, 79)]
    own = [os.getpid()]
    tree = TreeMetrics(ProcessTable.read().tree(own))
    published = (
        set(HostMetrics().read())
        | set(tree.read(ProcessTable.read().tree(own)))
        | set(filesystem_metrics({"output": Path("/"), "spool": Path("/nowhere/spool")}))
        | {name for name in GpuMetrics(nvml).read() if name.startswith("gpu0/")}
    )
    documented = set(re.findall(r"^\| `(\S+/\S+)` \|", PAGE.read_text(), re.M))
    assert published == documented
