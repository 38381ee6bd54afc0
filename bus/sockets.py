"""Sockets with every option set: the broker's ROUTER, and everybody else's DEALER."""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.errors import (
    AddressError,
    AddressInUse,
    BrokerUnreachable,
    KeyRefused,
    SettingsError,
)
from lineside.bus.protocol import addresses
from lineside.bus.protocol.messages import MAX_MESSAGE
from lineside.bus.settings import make_private_folder

if TYPE_CHECKING:
    from typing import TypeAlias

    Socket: TypeAlias = "zmq.Socket[bytes]"
    Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

HEARTBEAT_MS = 5_000
"""A ping after this long without traffic; three times as long without an answer is a cut."""
HANDSHAKE_MS = 5_000
"""A connection whose peer does not shake hands for this long is given up and made anew."""
HANDSHAKE_EVENTS = (
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    | int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    | int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    | int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
)
"""What a socket's monitor says of handshakes."""
MONITOR_EVENT = struct.Struct("=hi")
"""The first frame of what a monitor says: the event, and a number that belongs to it."""
_HIGH_WATER_MARK = 256  # messages libzmq holds in each direction of one connection


def parse(address: str) -> Path:
    """The socket path of a broker's own ``ipc:///absolute/path`` address.

    Raises:
        AddressError: another transport, a relative or abstract path, or one that is too long.
    """
    if address.startswith("tcp://"):
        raise AddressError(
            address,
            "a broker's own address is ipc:///absolute/path/to/bus.sock; for other machines start "
            "it there with --listen tcp://0.0.0.0:7430",
        )
    path = addresses.parse(address).path
    if path is None:
        raise AddressError(address, "expected ipc:///absolute/path/to/bus.sock")
    return path


class AddressLock:
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
        make_private_folder(path.parent)
        self.address = address
        self._fd = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise AddressInUse(
                "the broker address",
                address,
                f"process {claiming_pid(address)} listens there; "
                "stop it, or set LINESIDE_HOME to another folder",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process listen. The file stays: removing it would race with the next."""
        os.close(self._fd)


def claiming_pid(address: str) -> int:
    """The pid of the process that claimed an address last, whether or not it still lives; 0 if
    there was none."""
    try:
        return int(_lock_path(parse(address)).read_text())
    except (OSError, ValueError):
        return 0


def router(context: Context, address_lock: AddressLock) -> Socket:
    """A ROUTER bound at a claimed address, its socket file of mode 0600.

    A send to a peer that is gone or whose queue is full raises instead of vanishing.
    """
    # libzmq numbers connections from a place that C's rand() gives it, the same in every process.
    # Who guesses a number can choose it as his own name, and libzmq aborts when it comes to it.
    ctypes.CDLL(None).srand(secrets.randbits(32))
    socket = context.socket(zmq.ROUTER)
    _set_common_options(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    try:
        socket.bind(address_lock.address)
        parse(address_lock.address).chmod(0o600)
    except (zmq.ZMQError, OSError) as error:
        socket.close()
        raise AddressError(
            address_lock.address, f"it cannot be listened at: {error.strerror}"
        ) from error
    return socket


def dealer(context: Context, address: str) -> Socket:
    """A DEALER connecting to ``address``, now or when a broker comes up there, with the key that
    the address names.

    It queues only into a connection that stands (``zmq.Again`` otherwise, use ``zmq.NOBLOCK``) and
    never keeps its process from ending.

    Raises:
        AddressError: the address cannot be used.
        SettingsError: the key cannot.
    """
    socket, target = _dealer(context, address)
    socket.connect(target)
    return socket


def unreachable_error(address: str, seconds: float) -> BrokerUnreachable:
    """The error to raise when nobody answered at ``address`` within ``seconds``: over a network
    this connects once more, and says so if it is the key that was not taken."""
    why = key_refusal(address)
    return KeyRefused(address, why) if why else BrokerUnreachable(address, seconds)


def key_refusal(address: str, seconds: float = 1.0) -> str:
    """Why a broker at a network address does not take the key; empty if it does, if none answers
    within ``seconds``, and on this machine, where there are no keys.

    Raises:
        AddressError, SettingsError: address or key cannot be used.
    """
    if addresses.parse(address).key is None:
        return ""
    with zmq.Context() as context:
        socket, target = _dealer(context, address)
        monitor = socket.get_monitor_socket(HANDSHAKE_EVENTS)
        try:
            socket.connect(target)
            ready = monitor.poll(int(seconds * 1000))
            return handshake_error(monitor.recv_multipart()[0]) if ready else ""
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)


def handshake_error(frame: bytes) -> str:
    """Why a connection did not come about, from one of the ``HANDSHAKE_EVENTS`` of a socket's
    monitor;
    empty if it did."""
    event, _ = MONITOR_EVENT.unpack(frame)
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "it is not in the broker's list, or was revoked"
    if event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
        return "what listens there is no broker, or not the one that this key was made for"
    return ""


def _dealer(context: Context, address: str) -> tuple[Socket, str]:
    """A DEALER with every option set, and where to connect it."""
    target = addresses.parse(address)
    key = KeyFile.read(target.key) if target.key else None
    socket = context.socket(zmq.DEALER)
    _set_common_options(socket)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5_000)
    if "[" in target.endpoint:
        socket.setsockopt(zmq.IPV6, 1)
    if key is not None:
        try:
            socket.curve_publickey = key.public.encode()
            socket.curve_secretkey = key.secret.encode()
            socket.curve_serverkey = key.broker.encode()
        except zmq.ZMQError as error:
            socket.close()
            raise SettingsError("LINESIDE_KEY", target.key, "what is in it is no key") from error
    return socket, target.endpoint


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _set_common_options(socket: Socket) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    # libzmq would wait 30 s on a connection that a network swallowed right after it stood.
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 3 * HEARTBEAT_MS)
