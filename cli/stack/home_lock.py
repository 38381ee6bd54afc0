"""The lock that allows one ``lineside up`` for each home, and the status in its file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineside.bus.errors import AddressInUse
from lineside.bus.file_lock import FileLock
from lineside.bus.local_stack import UP_FILE, read_status
from lineside.bus.settings import make_private_folder


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
        path = home / UP_FILE
        try:
            self._lock = FileLock(path, wait=False)
        except BlockingIOError:
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
            os.ftruncate(self._lock.fd, os.pwrite(self._lock.fd, text, 0))

    def release(self) -> None:
        """Release the home."""
        os.ftruncate(self._lock.fd, 0)
        self._lock.release()


def is_held(home: Path) -> bool:
    """Whether a process runs the stack on ``home``."""
    path = home / UP_FILE
    if not path.exists():
        return False
    try:
        FileLock(path, wait=False).release()
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
