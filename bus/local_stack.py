"""What a process sees of the stack on its own machine at once: broker and page."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from lineside.bus.errors import AddressError
from lineside.bus.protocol.addresses import ipc_path
from lineside.bus.settings import Settings

UP_FILE = "up.lock"
"""The file in the home with the status of ``lineside up``."""
UNFINISHED_RESTORE = "restore.unfinished"
"""The file in the home while a restore puts files into their places."""


def broker_listens(address: str) -> bool | None:
    """Whether a broker listens at ``address``; None if it is on a network, which takes time.

    Connects to the socket and sends nothing: the kernel answers at once, also for a busy broker.
    """
    try:
        path = ipc_path(address)
    except AddressError:
        return None if address.startswith("tcp://") else False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # it listens, and many clients wait
        except OSError:
            return False
    return True


def page_address(settings: Settings) -> str | None:
    """The page of the ``lineside up`` that runs the home's broker; None if no such runs here."""
    status = read_status(settings.home) or {}
    pid, page = status.get("pid"), status.get("dashboard")
    if status.get("broker") != settings.broker or not isinstance(pid, int) or pid <= 0:
        return None
    return page if isinstance(page, str) and page and _is_alive(pid) else None


def read_status(home: Path) -> dict[str, Any] | None:
    """The last status of ``home``; None if none was written or the holder shut down."""
    try:
        status = json.loads((home / UP_FILE).read_text())
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
