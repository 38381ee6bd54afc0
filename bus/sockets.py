"""Sockets with every option set: the broker's ROUTER, everybody else's DEALER, and addresses."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from lineside.bus.errors import AddressError, AddressInUse
from lineside.bus.messages import MAX_MESSAGE
from lineside.bus.settings import private_folder

if TYPE_CHECKING:
    from typing import TypeAlias

    Socket: TypeAlias = "zmq.Socket[bytes]"
    Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

IPC_PATH_MAX = 107
"""Bytes a Unix socket's path may have."""
HEARTBEAT_MS = 5_000
"""A ping after this long without traffic; three times as long without an answer is a cut."""
HANDSHAKE_MS = 5_000
"""A connection whose peer does not shake hands for this long is given up and made anew."""
_QUEUE = 256  # messages libzmq holds in each direction of one connection


def parse(address: str) -> Path:
    """The socket path of an ``ipc:///absolute/path`` address.

    Raises:
        AddressError: another transport, a relative or abstract path, or one that is too long.
    """
    transport, separator, rest = address.partition("://")
    if not separator:
        raise AddressError(address, "expected ipc:///absolute/path/to/bus.sock")
    if transport == "tcp":
        raise AddressError(
            address,
            "tcp would be open to anybody without keys, which this version does not have yet; "
            "use ipc:///absolute/path/to/bus.sock",
        )
    if transport != "ipc":
        raise AddressError(address, f"{transport}:// is not supported, only ipc:///absolute/path")
    if not rest.startswith("/") or rest.endswith("/") or "\0" in rest:
        raise AddressError(address, "expected an absolute path of a socket, ipc:///path/bus.sock")
    size = len(os.fsencode(rest))
    if size > IPC_PATH_MAX:
        raise AddressError(
            address,
            f"its path has {size} bytes and a Unix socket takes {IPC_PATH_MAX}; "
            "set LINESIDE_BROKER or LINESIDE_HOME to a shorter one",
        )
    return Path(rest)


class Claim:
    """The right to listen at an address: an advisory lock on a file beside the socket.

    libzmq lets a second process bind the path of a first, which then hears nothing and says
    nothing. The lock belongs to the open file, so the kernel drops it with its process.

    Raises:
        AddressError: the address cannot be used.
        AddressInUse: another process holds it.
        SettingsError: the folder cannot be made or written.
    """

    def __init__(self, address: str) -> None:
        path = parse(address)
        private_folder(path.parent)
        self.address = address
        self._fd = os.open(_lock(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise AddressInUse(
                "the broker address",
                address,
                f"process {holder(address)} listens there; "
                "stop it, or set LINESIDE_HOME to another folder",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process listen. The file stays: removing it would race with the next."""
        os.close(self._fd)


def holder(address: str) -> int:
    """The pid of the process that claimed an address last, whether or not it still lives; 0 if
    there was none."""
    try:
        return int(_lock(parse(address)).read_text())
    except (OSError, ValueError):
        return 0


def router(context: Context, claim: Claim) -> Socket:
    """A ROUTER bound at a claimed address, its socket file of mode 0600.

    A send to a peer that is gone or whose queue is full raises instead of vanishing.
    """
    socket = context.socket(zmq.ROUTER)
    _common(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    try:
        socket.bind(claim.address)
        parse(claim.address).chmod(0o600)
    except (zmq.ZMQError, OSError) as error:
        socket.close()
        raise AddressError(claim.address, f"it cannot be listened at: {error.strerror}") from error
    return socket


def dealer(context: Context, address: str) -> Socket:
    """A DEALER connecting to ``address``, now or when a broker comes up there.

    It queues only into a connection that stands (``zmq.Again`` otherwise, use ``zmq.NOBLOCK``) and
    never keeps its process from ending.

    Raises:
        AddressError: the address cannot be used.
    """
    parse(address)
    socket = context.socket(zmq.DEALER)
    _common(socket)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5_000)
    socket.connect(address)
    return socket


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _common(socket: Socket) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _QUEUE)
    socket.setsockopt(zmq.RCVHWM, _QUEUE)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    # libzmq would wait 30 s on a connection that a network swallowed right after it stood.
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 3 * HEARTBEAT_MS)
