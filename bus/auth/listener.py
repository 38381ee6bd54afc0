"""The listening socket of an HTTP server: loopback, or any address once a token exists."""

from __future__ import annotations

import errno
import ipaddress
import socket

from lineside.bus.auth.keyring import TOKEN, Keyring
from lineside.bus.errors import AddressInUse, UsageError

_ACCESS = {"dashboard": "read, command and delete runs", "exporter": "read every run"}


def listen(
    host: str, port: int, keyring: Keyring | None = None, service: str = "dashboard"
) -> socket.socket:
    """A listening socket on loopback, or on any address if ``keyring`` has an active token.

    ``service`` is the command that listens.

    Raises:
        UsageError: the address cannot be used, or is not loopback and no token exists.
        AddressInUse: another process listens there.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} cannot be used: expected 0 (picks a free one) to 65535")
    try:
        family, _, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{service} address {host!r} cannot be used: {error}; "
            "expected an address of this machine, such as 127.0.0.1"
        ) from error
    if not ipaddress.ip_address(sockaddr[0]).is_loopback and not has_tokens(keyring):
        raise UsageError(
            f"{service} address {host} is not this machine's loopback address, and without a token "
            f"anyone who reaches it could {_ACCESS[service]}. Make one with "
            "`lineside keys new NAME --role read --token`, or use 127.0.0.1, and from elsewhere "
            f"`ssh -L {port}:127.0.0.1:{port} THIS-MACHINE`"
        )
    try:
        listener = socket.create_server(sockaddr[:2], family=family, backlog=256)
        # Otherwise a response of two writes waits 40 ms; asyncio sets it on its own sockets.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"another {service}? `lineside {service} --port 0` picks a free one"
            raise AddressInUse(f"{service} address", f"{host}:{port}", hint) from error
        raise UsageError(
            f"{service} address {host}:{port} cannot be used: {error.strerror}"
        ) from error


def has_tokens(keyring: Keyring | None) -> bool:
    """Whether ``keyring`` has an active token."""
    return keyring is not None and bool(keyring.active(TOKEN))


def check_tokens(keyring: Keyring) -> None:
    """Check that ``keyring`` has an active token.

    Raises:
        UsageError: it has none.
    """
    if not has_tokens(keyring):
        raise UsageError(
            "--tokens: no token exists; make one with `lineside keys new NAME --role read --token`"
        )


def is_loopback(listener: socket.socket) -> bool:
    """Whether the socket is reachable from this machine only."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address(listener: socket.socket) -> str:
    """The URL of the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
