"""The HTTP server of the page: ``/metrics`` and ``/healthz``, with a token where one is needed."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lineside.bus.auth.keyring import TOKEN, Keyring, token_hash
from lineside.bus.auth.listener import address
from lineside.bus.auth.roles import READ
from lineside.subscribers.exporter.page import Page, Variant

log = logging.getLogger("lineside")

METRICS_PATH, HEALTH_PATH = "/metrics", "/healthz"
MAX_LAG_SECONDS = 30.0
"""An exporter that is behind the journal for longer is not healthy."""
MAX_AGE_SECONDS = 30.0
"""A page that is older is not served: the exporter hangs."""
MAX_CONNECTIONS = 32
_REQUEST_SECONDS = 10.0
_ASKED_SECONDS = 150.0
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Health:
    """How well the exporter follows the bus."""

    is_connected: bool = False
    is_caught_up: bool = False
    lag_entries: int = 0
    lag_seconds: float = 0.0


class PageServer:
    """Serves the newest page on ``listener``, in threads of its own.

    With ``keyring`` the page takes a token with the role read, in ``Authorization: Bearer``.
    """

    def __init__(self, listener: socket.socket, keyring: Keyring | None) -> None:
        self.url = address(listener)
        self._keyring = keyring
        self._keyring_lock = threading.Lock()
        self._page: Page | None = None
        self._health = Health()
        self._published_at = time.monotonic()
        self._http = _HttpServer(listener, self)
        self._is_started = False
        self._asked_at: dict[Variant, float] = {}

    def start(self) -> None:
        """Begin to answer."""
        self._is_started = True
        threading.Thread(target=self._http.serve_forever, name="http", daemon=True).start()
        log.info("exporter: %s%s", self.url, METRICS_PATH)

    def stop(self) -> None:
        """End; requests that are being answered are cut off."""
        if self._is_started:
            self._http.shutdown()
        self._http.server_close()

    def publish(self, page: Page | None, health: Health) -> None:
        """Replace the page; None is no page yet.

        It is encoded before, in the forms that clients have asked for of late, so no request waits.
        """
        recently = time.monotonic() - _ASKED_SECONDS
        for variant, asked_at in list(self._asked_at.items()):
            if page is not None and asked_at >= recently:
                page.encode(variant)
        self._page, self._health, self._published_at = page, health, time.monotonic()

    def note_asked(self, variant: Variant) -> None:
        """A client asks for this form of the page."""
        self._asked_at[variant] = time.monotonic()

    @property
    def page(self) -> Page | None:
        """The page to serve; None if there is none that is new enough."""
        return self._page if self._age <= MAX_AGE_SECONDS else None

    def why_no_page(self) -> str:
        """Why ``page`` is None, as a sentence."""
        if self._age > MAX_AGE_SECONDS:
            return f"the exporter has rendered no page for {self._age:.0f} s"
        if not self._health.is_connected:
            return "the broker does not answer"
        entries = self._health.lag_entries
        return f"the exporter still reads what was published before: {entries} entries are left"

    def checks(self) -> dict[str, dict[str, Any]]:
        """What must hold for the page to be useful."""
        health = self._health
        lag = f"{health.lag_entries} entries behind for {health.lag_seconds:.0f} s"
        return {
            "broker": _check(health.is_connected, "connected", "the broker does not answer"),
            "page": _check(self.page is not None, "rendered", self.why_no_page()),
            "lag": _check(health.lag_seconds <= MAX_LAG_SECONDS, lag, lag),
        }

    def denial(self, authorization: str) -> tuple[HTTPStatus, str] | None:
        """Why a request with this header gets no page; None if it gets it."""
        if self._keyring is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            hint = "`lineside keys new NAME --role read --token` makes one"
            return HTTPStatus.UNAUTHORIZED, f"the exporter requires a token: {hint}"
        with self._keyring_lock:
            credential = self._keyring.find(TOKEN, token_hash(token.strip()))
        if credential is None or credential.revoked:
            return HTTPStatus.UNAUTHORIZED, "the token is not known here or was revoked"
        principal = credential.principal
        if not (principal.is_admin or READ in principal.roles):
            has = f"{principal.name!r} has {principal.role_names}"
            return HTTPStatus.FORBIDDEN, f"the page takes the role {READ}, and {has}"
        return None

    @property
    def _age(self) -> float:
        return time.monotonic() - self._published_at


def _check(is_ok: bool, good: str, bad: str) -> dict[str, Any]:
    return {"ok": is_ok, "detail": good if is_ok else bad}


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: PageServer) -> None:
        self.pages = pages
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._waiting: dict[socket.socket, float] = {}  # for a request, until when
        self.address_family = listener.family
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def service_actions(self) -> None:
        """Cut clients off that send their request so slowly that others find no connection free."""
        now = time.monotonic()
        for connection, until in list(self._waiting.items()):
            if now > until:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait_for_request(self, connection: socket.socket) -> None:
        """The client has this long for its next request."""
        self._waiting[connection] = time.monotonic() + _REQUEST_SECONDS

    def end_wait(self, connection: socket.socket) -> None:
        """The request is there, or there will be none."""
        self._waiting.pop(connection, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.end_wait(request)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        log.debug("exporter: a request of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"
    timeout = _REQUEST_SECONDS

    def handle_one_request(self) -> None:
        self.server.wait_for_request(self.connection)
        super().handle_one_request()

    def do_GET(self) -> None:
        self.server.end_wait(self.connection)
        path, pages = self.path.partition("?")[0], self.server.pages
        if path == HEALTH_PATH:
            checks = pages.checks()
            is_ok = all(check["ok"] for check in checks.values())
            status = HTTPStatus.OK if is_ok else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, _JSON, json.dumps({"ok": is_ok, "checks": checks}).encode())
        elif path != METRICS_PATH:
            self._send_text(HTTPStatus.NOT_FOUND, f"expected {METRICS_PATH} or {HEALTH_PATH}")
        elif denied := pages.denial(self.headers.get("Authorization", "")):
            self._send_text(*denied)
        elif (page := pages.page) is None:
            self._send_text(HTTPStatus.SERVICE_UNAVAILABLE, pages.why_no_page())
        else:
            headers = self.headers
            variant = Variant.of(headers.get("Accept", ""), headers.get("Accept-Encoding", ""))
            pages.note_asked(variant)
            encoding = "gzip" if variant.is_compressed else ""
            self._send(HTTPStatus.OK, variant.content_type, page.encode(variant), encoding)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def version_string(self) -> str:
        return "lineside"

    def log_message(self, format: str, *values: Any) -> None:
        log.debug("exporter: %s", format % values)

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, _TEXT, f"{text}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, encoding: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
