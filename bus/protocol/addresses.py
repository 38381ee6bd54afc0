"""A broker's address: a socket file on this machine, or a network address with a key file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.errors import AddressError

IPC_PATH_MAX = 107
"""Bytes a Unix socket's path may have."""
_KEY = "?key="
_TCP = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+|\*):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """A parsed address.

    ``endpoint`` is libzmq's form of it. ``path`` is the socket file, or None on a network, where
    ``key`` is the file of the key to connect with.
    """

    endpoint: str
    path: Path | None = None
    key: Path | None = None


def parse(address: str) -> Address:
    """Read ``ipc:///absolute/path`` or ``tcp://HOST:PORT?key=/absolute/path``.

    Raises:
        AddressError: anything else, or a path that is too long.
    """
    transport, separator, rest = address.partition("://")
    if transport == "ipc" and separator:
        return Address(address, path=_socket(address, rest))
    if transport == "tcp" and separator:
        endpoint, _, key = address.partition(_KEY)
        check_tcp_address(endpoint)
        if not key.startswith("/"):
            raise AddressError(
                address,
                "over a network a broker accepts keys only; set LINESIDE_KEY to the file that "
                "`lineside keys new` wrote on its machine",
            )
        return Address(endpoint, key=Path(key))
    expected = "expected ipc:///absolute/path/to/bus.sock, or tcp://HOST:7430 with LINESIDE_KEY"
    raise AddressError(address, expected)


def with_key(address: str, key: Path | None) -> str:
    """``address`` with the file of its key, if it is a network address without one."""
    if key is None or _KEY in address or not address.startswith("tcp://"):
        return address
    return f"{address}{_KEY}{key}"


def ipc_path(address: str) -> Path:
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
    path = parse(address).path
    if path is None:
        raise AddressError(address, "expected ipc:///absolute/path/to/bus.sock")
    return path


def check_tcp_address(address: str, *, to_listen: bool = False) -> str:
    """``address`` if it is ``tcp://HOST:PORT``; ``to_listen`` allows ``*``, and port 0 to pick one.

    Raises:
        AddressError: it is not.
    """
    found = _TCP.fullmatch(address.removeprefix("tcp://"))
    lowest = 0 if to_listen else 1
    if (
        not address.startswith("tcp://")
        or found is None
        or not lowest <= int(found["port"]) <= 65535
        or (found["host"] == "*" and not to_listen)
    ):
        example = "tcp://0.0.0.0:7430" if to_listen else "tcp://HOST:7430"
        raise AddressError(address, f"expected {example}")
    return address


def _socket(address: str, path: str) -> Path:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise AddressError(address, "expected an absolute path of a socket, ipc:///path/bus.sock")
    size = len(os.fsencode(path))
    if size > IPC_PATH_MAX:
        raise AddressError(
            address,
            f"its path has {size} bytes and a Unix socket takes {IPC_PATH_MAX}; "
            "set LINESIDE_BROKER or LINESIDE_HOME to a shorter one",
        )
    return Path(path)
