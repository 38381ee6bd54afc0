"""Receivers of notifications for tests: HTTP servers that misbehave, and an SMTP server."""

from __future__ import annotations

import email
import json
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message as Email
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

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
    """Gives one of ``answers`` to each request: a status, (status, headers), DROP, HANG or DRIP.

    After the last of them the status is 204.
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

            do_GET = do_POST = handle_any  # noqa: N815 - names of http.server

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
        status, extra = answer if isinstance(answer, tuple) else (answer, {})
        if 200 <= status < 300:
            self.taken.append(request)
        handler.send_response(status)
        for name, value in extra.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

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


class SmtpServer:
    """Takes every mail, after it refused the first ``refusals`` with a temporary error."""

    def __init__(self, refusals: int = 0) -> None:
        self.mails: list[Email] = []
        self.attempts = 0
        mails = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 test\r\n")
                for line in self.rfile:
                    verb = line.strip().upper()
                    if verb.startswith(b"EHLO"):
                        self.wfile.write(b"250 test\r\n")
                    elif verb == b"DATA":
                        self._take()
                    elif verb == b"QUIT":
                        self.wfile.write(b"221 bye\r\n")
                        return
                    else:
                        self.wfile.write(b"250 ok\r\n")

            def _take(self) -> None:
                mails.attempts += 1
                self.wfile.write(b"354 go on\r\n")
                lines: list[bytes] = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                if mails.attempts <= refusals:
                    self.wfile.write(b"451 try later\r\n")
                    return
                mails.mails.append(email.message_from_bytes(b"".join(lines)))
                self.wfile.write(b"250 taken\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def smtp_server(refusals: int = 0) -> Iterator[SmtpServer]:
    server = SmtpServer(refusals)
    try:
        yield server
    finally:
        server.close()


def text_of(mail: Email, content_type: str) -> str:
    """The text of the first part of this type."""
    part = next(one for one in mail.walk() if one.get_content_type() == content_type)
    return cast("bytes", part.get_payload(decode=True)).decode()
