"""Where the dashboard listens: this machine's loopback address, or with tokens anywhere."""

from __future__ import annotations

import errno
import ipaddress
import socket

from lineside.bus.auth.keyring import TOKEN, Keyring
from lineside.bus.errors import AddressInUse, UsageError


def listen(host: str, port: int, keyring: Keyring | None = None) -> socket.socket:
    """A listening socket on a loopback address, or anywhere if ``keyring`` has a good token.

    Raises:
        UsageError: an address that cannot be had, or not a loopback address and no token.
        AddressInUse: somebody listens there already.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} cannot be used: expected 0 (picks a free one) to 65535")
    try:
        family, _, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"dashboard address {host!r} cannot be used: {error}; "
            "expected an address of this machine, as 127.0.0.1"
        ) from error
    if not ipaddress.ip_address(sockaddr[0]).is_loopback and not has_tokens(keyring):
        raise UsageError(
            f"dashboard address {host} is not this machine's loopback address, and without a token "
            "anyone who reaches it could read, command and delete runs. Make one with "
            "`lineside keys new NAME --role read --token`, or use 127.0.0.1, and from elsewhere "
            f"`ssh -L {port}:127.0.0.1:{port} THIS-MACHINE`"
        )
    try:
        listener = socket.create_server(sockaddr[:2], family=family, backlog=256)
        # As asyncio does for sockets that it makes: an answer of two writes waits 40 ms without.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = "another dashboard? `lineside dashboard --port 0` picks a free one"
            raise AddressInUse("dashboard address", f"{host}:{port}", hint) from error
        raise UsageError(
            f"dashboard address {host}:{port} cannot be used: {error.strerror}"
        ) from error


def has_tokens(keyring: Keyring | None) -> bool:
    """Whether anybody has a token to be let in with."""
    return keyring is not None and bool(keyring.active(TOKEN))


def check_tokens(keyring: Keyring) -> None:
    """Whoever is to be asked for tokens must have made one.

    Raises:
        UsageError: there is none.
    """
    if not has_tokens(keyring):
        raise UsageError(
            "--tokens: there is none; make one with `lineside keys new NAME --role read --token`"
        )


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address(listener: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
