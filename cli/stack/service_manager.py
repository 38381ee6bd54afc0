"""Reports to the service manager that started a process, by systemd's protocol ``sd_notify``."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

READY, STOPPING = "READY=1", "STOPPING=1"
_VARIABLE = "NOTIFY_SOCKET"


def notify(*assignments: str, env: Mapping[str, str] | None = None) -> None:
    """Send ``assignments`` to the service manager, if one waits for them. Never fails."""
    address = (os.environ if env is None else env).get(_VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket
    with (
        contextlib.suppress(OSError),
        socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as manager,
    ):
        manager.sendto("\n".join(assignments).encode(), address)
