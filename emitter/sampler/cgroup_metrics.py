"""The memory limit that a training's processes share in a container or a batch job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroups version 1 write "none" as a number near 2**63
# The names of version 2 and of version 1: limit, usage, and cache that the kernel can drop.
_NAMES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cgroup_metrics(
    pid: int, *, mount: Path = _MOUNT, processes: Path = Path("/proc")
) -> dict[str, float]:
    """What the memory cgroup of process ``pid`` uses and may use; nothing without a limit.

    Cgroups around it may have limits too: the one that has the least left counts. The kernel kills
    a process when the working set reaches it.
    """
    found = [limited for folder in _folders(pid, mount, processes) for limited in _limits(folder)]
    if not found:
        return {}
    working_set, limit = min(found, key=lambda one: one[1] - one[0])
    return {
        "cgroup/memory_working_set_bytes": working_set,
        "cgroup/memory_limit_bytes": limit,
    }


def _limits(folder: Path) -> Iterator[tuple[int, int]]:
    """The working set of a cgroup and its limit, if it has one."""
    for limit_name, usage_name, cache_name in _NAMES:
        with contextlib.suppress(OSError, ValueError):
            limit = int((folder / limit_name).read_text())  # "max" is no number
            if limit < _UNLIMITED:
                usage = int((folder / usage_name).read_text())
                yield max(0, usage - _stat(folder / "memory.stat", cache_name)), limit


def _folders(pid: int, mount: Path, processes: Path) -> Iterator[Path]:
    """The memory cgroup of the process and those around it, from the inside out."""
    with contextlib.suppress(OSError, ValueError):
        for line in (processes / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = mount / "memory" if controllers else mount
            # Inside a container the path may be the host's, and the mount its own.
            own = root / path.lstrip("/")
            yield own
            yield from (folder for folder in own.parents if folder.is_relative_to(root))


def _stat(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
