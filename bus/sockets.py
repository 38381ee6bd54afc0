"""Sockets with every option set: the broker's ROUTER and the clients' DEALER."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import resource
import secrets
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.errors import AddressError, BrokerUnreachable, KeyRefused, SettingsError
from lineside.bus.protocol import addresses
from lineside.bus.protocol.messages import MAX_MESSAGE

if TYPE_CHECKING:
    from typing import TypeAlias

    Socket: TypeAlias = "zmq.Socket[bytes]"
    Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

log = logging.getLogger("lineside")

HEARTBEAT_MS = 5_000
"""A ping is sent after this time without traffic; without an answer for three times as long the
connection is closed."""
HANDSHAKE_MS = 5_000
"""A connection whose handshake takes longer is closed and opened again."""
HANDSHAKE_EVENTS = (
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    | int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    | int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    | int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
)
"""The events of a socket's monitor about handshakes."""
MONITOR_EVENT = struct.Struct("=hi")
"""The first frame of a monitor's message: the event and its value."""
_LOW_FILE_LIMIT = 1024
MAX_DELIVERY = 16 << 20
"""Bytes of the largest frame that a client takes from the broker."""
_SEND_MAX = 256  # messages libzmq holds for each connection until they are sent
_NO_RECEIVE_LIMIT = 0
# With a limit libzmq 4.3 stops to read from a connection, and aborts the process when that
# connection then closes before a heartbeat in its buffer was answered (libzmq's issues 4364 and
# 4841), or is replaced by another one (3937). Other limits hold for what a peer may send: a
# reader's credit, a producer's window, and the broker's watch over network connections.


def raise_file_limit() -> None:
    """Raise this process's limit of open files to the hard limit, and warn if that is low."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if 0 <= hard < _LOW_FILE_LIMIT:
            log.warning(
                "this process may open only %d files, and each connection takes one: raise the "
                "limit that `ulimit -Hn` shows",
                hard,
            )


def router(
    context: Context, address: str, prepare: Callable[[Socket], object] | None = None
) -> Socket:
    """A ROUTER bound at an ``ipc://`` address, its socket file of mode 0600.

    The caller holds the ``AddressLock``. ``prepare`` is called before the bind. A send to a peer
    that is gone, or whose queue is full, raises an error.

    Raises:
        AddressError: the address cannot be bound.
    """
    # libzmq takes the first connection number from C's rand(), the same in every process. A client
    # that guesses a number can set it as its routing id, and libzmq aborts when it reaches it.
    ctypes.CDLL(None).srand(secrets.randbits(32))
    socket = context.socket(zmq.ROUTER)
    _set_common_options(socket)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if prepare is not None:
        prepare(socket)
    try:
        socket.bind(address)
        addresses.ipc_path(address).chmod(0o600)
    except (zmq.ZMQError, OSError) as error:
        socket.close()
        raise AddressError(address, f"it cannot be bound: {error.strerror}") from error
    return socket


def dealer(context: Context, address: str) -> Socket:
    """A DEALER that connects to ``address``, now or when a broker starts there.

    It uses the key that the address names. It queues messages only while it is connected (use
    ``zmq.NOBLOCK``; it raises ``zmq.Again`` otherwise), and never delays the exit of its process.

    Raises:
        AddressError: the address cannot be used.
        SettingsError: the key cannot be used.
    """
    socket, target = _dealer(context, address)
    socket.connect(target)
    return socket


def unreachable_error(address: str, seconds: float) -> BrokerUnreachable:
    """The error to raise when no broker answered at ``address`` within ``seconds``.

    Over a network this connects once more, to find out whether the key is refused.
    """
    why = key_refusal(address)
    return KeyRefused(address, why) if why else BrokerUnreachable(address, seconds)


def key_refusal(address: str, seconds: float = 1.0) -> str:
    """Why a broker at a network address refuses the key; empty if it does not.

    Empty also if no broker answers within ``seconds``, and for addresses of this machine.

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
    """Why a handshake failed, from one of the ``HANDSHAKE_EVENTS``; empty if it succeeded."""
    event, _ = MONITOR_EVENT.unpack(frame)
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "it is not in the broker's list, or was revoked"
    if event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
        return "the listener is no broker, or not the one that this key was made for"
    return ""


def _dealer(context: Context, address: str) -> tuple[Socket, str]:
    """A DEALER with every option set, and the endpoint to connect it to."""
    target = addresses.parse(address)
    key = KeyFile.read(target.key) if target.key else None
    socket = context.socket(zmq.DEALER)
    _set_common_options(socket)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_DELIVERY)
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
            raise SettingsError("LINESIDE_KEY", target.key, "it holds no valid key") from error
    return socket, target.endpoint


def _set_common_options(socket: Socket) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _SEND_MAX)
    socket.setsockopt(zmq.RCVHWM, _NO_RECEIVE_LIMIT)
    # libzmq would wait 30 s for a handshake that the network lost.
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 3 * HEARTBEAT_MS)


def source_descriptor(frame: zmq.Frame) -> int:
    """The descriptor that ``frame`` was received on; -1 from a peer of ZMTP before 3."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1
