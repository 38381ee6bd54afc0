"""One HTTP request to a receiver: no redirect is followed, and no error names the address."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

TIMEOUT_SECONDS = 15.0
"""How long a receiver may take to connect, and for each part of its answer."""
MAX_SECONDS = 60.0
"""How long a request may take in all."""
_PROBLEM_BYTES = 4096  # of an answer that is no success


class RequestFailed(Exception):
    """A receiver did not answer with a status of 200 to 299; ``str`` is the reason.

    ``status`` is None without an answer; ``retry_after`` is in seconds; ``answer`` is the begin of
    its text, as the receiver wrote it.
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        retry_after: float | None = None,
        answer: str = "",
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.answer = answer


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a receiver may take: to connect, for each part of its answer, and in all."""

    connect: float = TIMEOUT_SECONDS
    part: float = TIMEOUT_SECONDS
    total: float = MAX_SECONDS


class _Deadline:
    """Shuts the connection of one request down at a time, though bytes go on to come."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.has_passed = False
        self._end = time.monotonic() + timeouts.total
        self._timer: threading.Timer | None = None

    def begin(self, connected: socket.socket) -> None:
        connected.settimeout(self.timeouts.part)
        self.cancel()
        seconds = max(0.0, self._end - time.monotonic())
        self._timer = threading.Timer(seconds, self._shut, (connected,))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _shut(self, connected: socket.socket) -> None:
        self.has_passed = True
        with contextlib.suppress(OSError):  # it is closed
            # Of the socket below TLS: the reading thread then finds the end of the stream.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


class _Connection(http.client.HTTPConnection):
    def __init__(self, *arguments: Any, deadline: _Deadline, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline = deadline

    def connect(self) -> None:
        super().connect()
        self._deadline.begin(self.sock)


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, deadline=self._deadline), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_TlsConnection, deadline=self._deadline), request)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def request(
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeouts: Timeouts | None = None,
    *,
    max_answer: int = 0,
) -> bytes:
    """GET ``url``, or POST ``body`` to it, through the proxy of the environment if it names one.

    The first ``max_answer`` bytes of the answer are returned; fewer if they do not come in time.

    Raises:
        RequestFailed: the receiver did not confirm it.
    """
    headers = {"User-Agent": _user_agent(), **(headers or {})}
    deadline = _Deadline(timeouts or Timeouts())
    opener = urllib.request.build_opener(_Http(deadline), _Https(deadline), _NoRedirects)
    try:
        # The schema of a configuration allows http and https.
        prepared = urllib.request.Request(url, body, headers)  # noqa: S310
        with opener.open(prepared, timeout=deadline.timeouts.connect) as answer:
            if deadline.has_passed:
                raise TimeoutError  # its headers were cut off
            return _read(answer, max_answer)
    except urllib.error.HTTPError as error:
        with error:
            text = _read(error, _PROBLEM_BYTES).decode(errors="replace")
        raise RequestFailed(
            _status_text(error), error.code, _retry_after(error.headers.get("Retry-After")), text
        ) from None
    except urllib.error.URLError as error:
        raise RequestFailed(_reason(error.reason, deadline)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RequestFailed(_reason(error, deadline)) from None
    finally:
        deadline.cancel()


def _read(answer: http.client.HTTPResponse | urllib.error.HTTPError, most: int) -> bytes:
    """The first bytes of an answer whose status has come."""
    found = b""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        while len(found) < most and (part := answer.read1(most - len(found))):
            found += part
    return found


@lru_cache(1)
def _user_agent() -> str:
    from importlib.metadata import version  # slow to import

    return f"lineside/{version('lineside')}"


def _status_text(error: urllib.error.HTTPError) -> str:
    phrase = http.client.responses.get(error.code, "")
    text = f"the answer was {error.code} {phrase}".rstrip()
    return f"{text}, which is not followed" if 300 <= error.code < 400 else text


def _reason(error: object, deadline: _Deadline) -> str:
    if deadline.has_passed or isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.HTTPException):
        return f"no valid HTTP answer ({type(error).__name__})"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, ValueError):
        return f"the address cannot be used ({type(error).__name__})"
    return str(error)


def _retry_after(value: str | None, now: float | None = None) -> float | None:
    """The seconds that a header asks for: a number, or the time of a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, at - (time.time() if now is None else now))
