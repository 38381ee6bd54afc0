"""Which file system a path is on."""

from __future__ import annotations

import os
from pathlib import Path

_NETWORK = frozenset(
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


def network_filesystem(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of network file system ``path`` is on (``nfs4``, ``cifs``, ...); None if local.

    ``mounts`` is the kernel's table, man 5 proc_pid_mountinfo; where there is none, all is local.
    """
    try:
        table = mounts.read_text(errors="replace")
    except OSError:
        return None
    resolved = os.fsdecode(path.resolve())
    best, kind = "", ""
    for line in table.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not source:
            continue
        point = fields[4].encode().decode("unicode_escape").rstrip("/") + "/"
        # Of two mounts at one point the later one is on top.
        if len(point) >= len(best) and (resolved + "/").startswith(point):
            best, kind = point, source.split(" ", 1)[0]
    return kind if kind in _NETWORK else None
