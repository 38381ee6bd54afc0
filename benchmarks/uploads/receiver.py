"""A receiver as a process: ``python -m benchmarks.uploads.receiver PORT answer|hang``."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG, ANSWER = "hang", "answer"


class _Handler(BaseHTTPRequestHandler):
    hangs = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.hangs:
            time.sleep(3600)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    _Handler.hangs = sys.argv[2] == HANG
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
