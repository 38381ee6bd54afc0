"""Counts how often the kernel killed a process because this memory cgroup was full."""

from __future__ import annotations

import contextlib
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_COUNT = "oom_kill"


def kill_count(mount: Path = _MOUNT, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The count so far, by cgroups version 2 or 1; None if it is unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                places = [mount / "memory" / path.lstrip("/"), mount / "memory"]
                name = "memory.oom_control"
            elif not controllers:
                places = [mount / path.lstrip("/"), mount]
                name = "memory.events"
            else:
                continue
            # Inside a container the path may be the host's, and the mount its own.
            for place in places:
                count = _read(place / name)
                if count is not None:
                    return count
    return None


def _read(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == _COUNT:
                return int(value)
    return None
