"""The memory limit of a container or a batch job, in both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.emitter.sampler.cgroup_metrics import cgroup_metrics


class Machine:
    """Folders like /proc and /sys/fs/cgroup for process 7."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, path: str, **files: object) -> None:
        for name, value in files.items():
            file = self.folder / path / name.replace("__", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")

    def read(self) -> dict[str, float]:
        return cgroup_metrics(7, mount=self.folder / "cgroup", processes=self.folder / "proc")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_of_several_limits_the_one_that_has_the_least_left_counts(machine: Machine) -> None:
    machine.put("proc/7", cgroup="0::/job/step")
    machine.put("cgroup/job/step", memory__max=900, memory__current=100, memory__stat="")
    machine.put("cgroup/job", memory__max=200, memory__current=150, memory__stat="")
    assert machine.read() == {
        "cgroup/memory_working_set_bytes": 150,
        "cgroup/memory_limit_bytes": 200,
    }


def test_a_job_has_the_limit_around_it_and_what_it_cannot_give_back(machine: Machine) -> None:
    machine.put("proc/7", cgroup="0::/slurm/job_1/step_0")
    machine.put("cgroup/slurm/job_1/step_0", memory__max="max")
    stat = "anon 70\ninactive_file 25"
    machine.put("cgroup/slurm/job_1", memory__max=200, memory__current=100, memory__stat=stat)
    machine.put("cgroup/slurm", memory__max=9000, memory__current=800, memory__stat=stat)
    assert machine.read() == {
        "cgroup/memory_working_set_bytes": 75,
        "cgroup/memory_limit_bytes": 200,
    }


def test_a_container_has_the_limit_at_the_root_of_its_own_mount(machine: Machine) -> None:
    machine.put("proc/7", cgroup="0::/docker/0123456789ab")
    machine.put("cgroup", memory__max=200, memory__current=100, memory__stat="inactive_file 0")
    assert machine.read()["cgroup/memory_limit_bytes"] == 200


def test_version_1_has_other_names(machine: Machine) -> None:
    machine.put("proc/7", cgroup="5:cpu:/x\n4:memory:/job")
    files = {"memory__limit_in_bytes": 300, "memory__usage_in_bytes": 90}
    machine.put("cgroup/memory/job", memory__stat="total_inactive_file 10", **files)
    assert machine.read() == {
        "cgroup/memory_working_set_bytes": 80,
        "cgroup/memory_limit_bytes": 300,
    }


@pytest.mark.parametrize(
    ("cgroup", "folder", "name", "limit"),
    [
        ("0::/", "cgroup", "memory__max", "max"),
        ("4:memory:/", "cgroup/memory", "memory__limit_in_bytes", 9223372036854771712),
    ],
)
def test_without_a_limit_there_is_nothing(
    machine: Machine, cgroup: str, folder: str, name: str, limit: object
) -> None:
    machine.put("proc/7", cgroup=cgroup)
    machine.put(folder, **{name: limit}, memory__current=1, memory__usage_in_bytes=1)
    assert machine.read() == {}


def test_a_process_that_has_ended_has_none(machine: Machine) -> None:
    assert machine.read() == {}
