"""docs/reference/system-metrics.md lists the metrics that a sampler publishes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lineside.emitter.sampler.cgroup_metrics import cgroup_metrics
from lineside.emitter.sampler.failure_log import FailureLog
from lineside.emitter.sampler.filesystem_metrics import FilesystemMetrics
from lineside.emitter.sampler.gpu_metrics import GpuMetrics
from lineside.emitter.sampler.host_metrics import HostMetrics
from lineside.emitter.sampler.process_metrics import ProcessTable, TreeMetrics
from tests.emitter.sampler.fake_nvml import FakeNvml

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "system-metrics.md"


def test_published_and_documented_metrics_are_the_same(tmp_path: Path) -> None:
    nvml = FakeNvml()
    nvml.xids = [(0, 79)]
    own = [os.getpid()]
    (tmp_path / "memory.max").write_text("200\n")
    (tmp_path / "memory.current").write_text("100\n")
    (tmp_path / "memory.stat").write_text("inactive_file 1\n")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/\n")
    folders = {"output": Path("/"), "spool": Path("/nowhere/spool")}
    filesystems = FilesystemMetrics()
    filesystems.ask(set(folders.values()))
    tree = TreeMetrics(ProcessTable.read().tree(own))
    published = (
        set(HostMetrics(FailureLog()).read())
        | set(tree.read(ProcessTable.read().tree(own)))
        | set(cgroup_metrics(7, mount=tmp_path, processes=tmp_path))
        | set(filesystems.read(folders))
        | {name for name in GpuMetrics(nvml, FailureLog()).read() if name.startswith("gpu0/")}
    )
    documented = set(re.findall(r"^\| `(\S+/\S+)` \|", PAGE.read_text(), re.M))
    assert published == documented
