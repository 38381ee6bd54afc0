"""The lock that allows one ``lineside up`` for each home, and the status in its file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineside.bus.errors import AddressInUse
from lineside.bus.settings import make_private_folder

FILE_NAME = "up.lock"


class HomeLock:
    """Held by the one ``lineside up`` of a home: an advisory lock on a file with a JSON status.

    The kernel releases the lock when its process ends. The status is the last one written and may
    be older.

    Raises:
        AddressInUse: another process holds it.
        SettingsError: the home cannot be created or written.
    """

    def __init__(self, home: Path) -> None:
        make_private_folder(home)
        path = home / FILE_NAME
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            status = read_status(home) or {}
            where = f", its page is {status['dashboard']}" if "dashboard" in status else ""
            raise AddressInUse(
                "LINESIDE_HOME",
                str(home),
                f"process {status.get('pid', 'unknown')} runs the stack there{where}; "
                "use that one, or set LINESIDE_HOME to another folder",
            ) from None

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status; ``pid`` is added. Does nothing on a full disk."""
        text = json.dumps({"pid": os.getpid(), **status}).encode()
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, os.pwrite(self._fd, text, 0))

    def release(self) -> None:
        """Release the home."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def read_status(home: Path) -> dict[str, Any] | None:
    """The last status of ``home``; None if none was written or the holder shut down."""
    try:
        status = json.loads((home / FILE_NAME).read_text())
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None


def is_held(home: Path) -> bool:
    """Whether a process runs the stack on ``home``."""
    try:
        fd = os.open(home / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
