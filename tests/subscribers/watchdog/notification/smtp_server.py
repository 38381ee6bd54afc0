"""An SMTP server for tests."""

from __future__ import annotations

import email
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message as Email
from typing import cast


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
