"""Where the dashboard listens: this machine's loopback address, and nowhere else yet."""

from __future__ import annotations

import errno
import ipaddress
import socket

from lineside.bus.errors import AddressInUse, UsageError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address.

    Raises:
        UsageError: not a loopback address, or one that cannot be had.
        AddressInUse: somebody listens there already.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} cannot be used: expected 0 (picks a free one) to 65535")
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"dashboard address {host!r} cannot be used: {error}; "
            "expected an address of this machine, as 127.0.0.1"
        ) from error
    if not ipaddress.ip_address(where[0]).is_loopback:
        raise UsageError(
            f"dashboard address {host} is not this machine's loopback address: anyone who reaches "
            "it could read and delete runs, and this version has no access tokens. Use 127.0.0.1, "
            f"and from elsewhere `ssh -L {port}:127.0.0.1:{port} THIS-MACHINE`"
        )
    try:
        return socket.create_server(where[:2], family=family, backlog=256)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = "another dashboard? `lineside dashboard --port 0` picks a free one"
            raise AddressInUse("dashboard address", f"{host}:{port}", hint) from error
        raise UsageError(
            f"dashboard address {host}:{port} cannot be used: {error.strerror}"
        ) from error


def address(listener: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
