"""A receiver of HTTP requests for tests: a real server that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROP = "drop"
"""Close the connection without an answer."""
DRIP = "drip"
"""Send an answer that does not end, byte by byte."""
HANG = "hang"
"""Do not answer until the server is closed."""


@dataclass(frozen=True)
class Request:
    """A request that came in, whatever the answer was."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    time: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HttpReceiver:
    """Gives one of ``answers`` to each request: a status, DROP, HANG or DRIP.

    A status may come with headers and a body: ``(400, {}, b"no")``. After the last of them the
    status is 204.
    """

    def __init__(self, answers: Sequence[Any] = (), port: int = 0) -> None:
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        self.answers = list(answers)
        self.is_closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                receiver.handle(self)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - names of http.server

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, handler.path, headers, body)
        answer = self.answers.pop(0) if self.answers else 204
        self.requests.append(request)
        if answer == HANG:
            self.is_closing.wait(60)
        while answer == DRIP and not self.is_closing.wait(0.05):
            handler.wfile.write(b"H")
        if answer in (DROP, HANG, DRIP):
            handler.close_connection = True
            return
        status, extra, text = (*answer, b"")[:3] if isinstance(answer, tuple) else (answer, {}, b"")
        if 200 <= status < 300:
            self.taken.append(request)
        handler.send_response(status)
        for name, value in extra.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def close(self) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def http_receiver(*answers: Any) -> Iterator[HttpReceiver]:
    receiver = HttpReceiver(answers)
    try:
        yield receiver
    finally:
        receiver.close()
