"""An HTTP proxy inside this process that keeps an object store's client below a pace.

The client sends a part as one request and as fast as the network takes it. What goes through this
proxy is held back byte by byte instead, also under TLS, which it does not look into. It serves only
clients that have the password of its URL: other users of the machine reach its port too.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from urllib.parse import SplitResult, unquote, urlsplit

from lineside.store.archive.objects.pace import Pace

_MOST_HEAD_BYTES = 64 << 10
_USER = "lineside"
_AUTHORIZATION = re.compile(rb"\r\nproxy-authorization:[ \t]*([^\r\n]*)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
UNREACHED = "LinesideUnreached"
"""The code of the answer for a server that cannot be reached; the reason follows in its body."""


class PacedProxy:
    """Forwards to where the client wants, or to the next proxy. Each connection has one target,
    so a client of plain HTTP must not keep connections.

    ``next_proxy`` is the URL of the proxy to go through; empty asks the environment.
    """

    def __init__(self, pace: Pace, next_proxy: str = "") -> None:
        self.bytes_sent = 0
        self._pace = pace
        self._next_proxy = next_proxy
        self._password = secrets.token_urlsafe(24)
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve during a context; its value is the URL of the proxy."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_MOST_HEAD_BYTES)
        try:
            port = server.sockets[0].getsockname()[1]
            yield f"http://{_USER}:{self._password}@127.0.0.1:{port}"
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served outside of a task")
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client sees that the connection is closed
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio would log the task as failed
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        given = _AUTHORIZATION.search(head)
        if not given or not secrets.compare_digest(given[1], _basic(_USER, self._password)):
            await _refuse(writer, b"407 Proxy Authentication Required")
            return
        head = _AUTHORIZATION.sub(b"", head)
        method, target = head.split(b" ", 2)[:2]
        is_tunnel = method == b"CONNECT"
        url = urlsplit(f"https://{target.decode()}" if is_tunnel else target.decode())
        proxy = self._proxy_for(url)
        through = proxy or url
        try:
            far_reader, far_writer = await asyncio.open_connection(
                through.hostname, through.port or _PORTS[through.scheme]
            )
        except OSError as error:
            why = "dns error" if isinstance(error, socket.gaierror) else type(error).__name__
            body = f"<Code>{UNREACHED}</Code>{why}".encode()
            await _refuse(writer, b"502 Bad Gateway", body)
            return
        try:
            if is_tunnel and proxy is None:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                far_writer.write(head[:-2] + _authorization(proxy) + b"\r\n")
            await _first_to_end(
                self._send(reader, far_writer),
                self._receive(far_reader, writer),
            )
        finally:
            far_writer.close()

    def _proxy_for(self, url: SplitResult) -> SplitResult | None:
        proxies = urllib.request.getproxies()
        named = self._next_proxy or proxies.get(url.scheme) or proxies.get("all")
        if not named or (not self._next_proxy and urllib.request.proxy_bypass(url.hostname or "")):
            return None
        return urlsplit(named if "://" in named else f"http://{named}")

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while size := await self._relay_piece(reader, writer):
            self.bytes_sent += size

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await self._relay_piece(reader, writer):
            pass

    async def _relay_piece(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        data = await reader.read(self._pace.piece_bytes)
        await self._pace.take(len(data))
        writer.write(data)
        await writer.drain()
        return len(data)


def _authorization(proxy: SplitResult | None) -> bytes:
    if proxy is None or proxy.username is None:
        return b""
    login = _basic(unquote(proxy.username), unquote(proxy.password or ""))
    return b"Proxy-Authorization: " + login + b"\r\n"


def _basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


async def _refuse(writer: asyncio.StreamWriter, status: bytes, body: bytes = b"") -> None:
    writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
    await writer.drain()


async def _first_to_end(*works: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with suppress(OSError):
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
