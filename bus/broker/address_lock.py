"""The lock on a broker's address: at most one process listens there."""

from __future__ import annotations

import os
from pathlib import Path

from lineside.bus.errors import AddressInUse
from lineside.bus.file_lock import FileLock
from lineside.bus.protocol.addresses import ipc_path
from lineside.bus.settings import make_private_folder


class AddressLock:
    """The right to listen at an ``ipc://`` address: a lock on a file beside the socket.

    Without it libzmq lets a second process bind the path, and the first one then receives nothing.

    Raises:
        AddressError: the address cannot be used.
        AddressInUse: another process holds it.
        SettingsError: the folder cannot be made or written.
    """

    def __init__(self, address: str) -> None:
        path = ipc_path(address)
        make_private_folder(path.parent)
        self.address = address
        try:
            self._lock = FileLock(_lock_path(path), wait=False)
        except BlockingIOError:
            raise AddressInUse(
                "the broker address",
                address,
                f"process {listening_pid(address)} listens there; "
                "stop it, or set LINESIDE_HOME to another folder",
            ) from None
        os.ftruncate(self._lock.fd, 0)
        os.pwrite(self._lock.fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process listen."""
        self._lock.release()


def listening_pid(address: str) -> int:
    """The pid of the process that locked an address last, alive or not; 0 if none did."""
    try:
        return int(_lock_path(ipc_path(address)).read_text())
    except (OSError, ValueError):
        return 0


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
