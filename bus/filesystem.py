"""Find the file system of a path."""

from __future__ import annotations

import os
from pathlib import Path

_NETWORK_TYPES = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)


_MOUNTINFO = Path("/proc/self/mountinfo")


def network_filesystem_type(path: Path, mounts: Path = _MOUNTINFO) -> str | None:
    """The kind of network file system ``path`` is on (``nfs4``, ``cifs``, ...); None if local."""
    kind = filesystem(path, mounts)
    return kind if kind in _NETWORK_TYPES else None


def filesystem(path: Path, mounts: Path = _MOUNTINFO) -> str:
    """The kind of file system ``path`` is on (``ext4``, ``nfs4``, ...); empty if it is not known.

    ``mounts`` is the kernel's table, man 5 proc_pid_mountinfo.
    """
    try:
        table = mounts.read_text(errors="replace")
    except OSError:
        return ""
    resolved = os.fsdecode(path.resolve())
    best, kind = "", ""
    for line in table.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not source:
            continue
        mount_point = fields[4].encode().decode("unicode_escape").rstrip("/") + "/"
        # Of two mounts at one point the later one is on top.
        if len(mount_point) >= len(best) and (resolved + "/").startswith(mount_point):
            best, kind = mount_point, source.split(" ", 1)[0]
    return kind
