"""The kernel's count of out-of-memory kills is found in every layout of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.emitter.launch import oom_kills

V2 = "0::/system/job\n"
V1 = "5:devices:/\n4:cpu,memory:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "file", "text", "count"),
    [
        (V2, "system/job/memory.events", "low 0\noom 9\noom_kill 3\noom_group_kill 0\n", 3),
        # In a container the path may be the host's.
        (V2, "memory.events", "oom_kill 1\n", 1),
        (V1, "memory/docker/abc/memory.oom_control", "oom_kill_disable 0\noom_kill 2\n", 2),
        (V1, "memory/memory.oom_control", "under_oom 0\noom_kill 0\n", 0),
        # An old kernel has no count.
        (V1, "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", None),
        (V2, "elsewhere", "oom_kill 1\n", None),
        ("nonsense\n", "memory.events", "oom_kill 1\n", None),
    ],
)
def test_the_count_is_found_or_is_none(
    tmp_path: Path, groups: str, file: str, text: str, count: int | None
) -> None:
    own = tmp_path / "own"
    own.write_text(groups)
    place = tmp_path / "mount" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    assert oom_kills.kill_count(tmp_path / "mount", own) == count


def test_without_cgroups_the_count_is_unknown(tmp_path: Path) -> None:
    assert oom_kills.kill_count(tmp_path, tmp_path / "missing") is None
