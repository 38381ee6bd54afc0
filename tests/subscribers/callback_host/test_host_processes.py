"""The callback host end to end: its processes, a real broker, and callbacks that write files."""

from __future__ import annotations

from pathlib import Path

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from tests.subscribers.callback_host.host_process import (
    HostProcess,
    read_lines,
    sample,
    steps_of,
    train,
    wait_for_hook,
)


def test_a_callback_gets_a_run_in_a_process_of_its_own(
    broker: BrokerProcess, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "calls"
    with HostProcess(settings, [sample("Appender", args={"file": str(file)})]) as host:
        host.wait_started()
        train(settings, "run", 5)
        lines = wait_for_hook(file, "end")
        assert host.stop() == 0
    assert [(line.hook, line.step) for line in lines] == [
        ("begin", 0),
        *(("log", step) for step in range(1, 6)),
        ("end", 5),
    ]
    assert len({line.pid for line in lines} - {host.pid}) == 1
    assert steps_of(read_lines(file)) == [1, 2, 3, 4, 5]
