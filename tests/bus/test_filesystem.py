"""Network file systems are known by the kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.filesystem import filesystem, network_filesystem_type

TABLE = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /data rw,relatime shared:1 - nfs4 server:/data rw
31 30 0:31 / /data/fast rw - tmpfs tmpfs rw
32 22 0:32 / /with\040space rw - cifs //server/share rw
33 22 0:33 / /over rw - ext4 /dev/vdb rw
34 22 0:34 / /over rw - fuse.sshfs host: rw
not a line of the table
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", None),
        ("/data", "nfs4"),
        ("/data/runs/one", "nfs4"),
        ("/data/fast/runs", None),
        ("/database", None),
        ("/with space/runs", "cifs"),
        ("/over/here", "fuse.sshfs"),
    ],
)
def test_the_mount_a_path_is_on_decides(tmp_path: Path, path: str, kind: str | None) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert network_filesystem_type(Path(path), table) == kind
    assert filesystem(Path(path), table) == (kind or ("tmpfs" if "fast" in path else "ext4"))


def test_without_a_table_every_path_is_local(tmp_path: Path) -> None:
    assert network_filesystem_type(tmp_path, tmp_path / "none") is None


def test_this_machines_temporary_folder_is_local(tmp_path: Path) -> None:
    assert network_filesystem_type(tmp_path) is None
