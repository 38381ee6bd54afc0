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
from functools import lru_cache
from typing import Any

TIMEOUT_SECONDS = 15.0
"""How long a receiver may take to connect, and for each part of its answer."""
MAX_SECONDS = 60.0
"""How long a request may take in all."""


class RequestFailed(Exception):
    """A receiver did not answer with a status of 200 to 299; ``str`` is the reason.

    ``status`` is None without an answer; ``retry_after`` is in seconds.
    """

    def __init__(
        self, reason: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class _Limited(http.client.HTTPConnection):
    """A connection that ends after ``MAX_SECONDS``, though its answer comes byte by byte."""

    _timer: threading.Timer | None = None

    def connect(self) -> None:
        super().connect()
        self._timer = threading.Timer(MAX_SECONDS, self._shut)
        self._timer.daemon = True
        self._timer.start()

    def getresponse(self) -> http.client.HTTPResponse:
        try:
            return super().getresponse()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _shut(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it is closed, or was never open
            # Of the socket below TLS: the reading thread then finds the end of the stream.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class _LimitedTls(_Limited, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Limited, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_LimitedTls, request)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def request(
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> None:
    """GET ``url``, or POST ``body`` to it, through the proxy of the environment if it names one.

    Raises:
        RequestFailed: the receiver did not confirm it.
    """
    headers = {"User-Agent": _user_agent(), **(headers or {})}
    prepared = urllib.request.Request(url, body, headers)  # noqa: S310 - the schema allows http(s)
    opener = urllib.request.build_opener(_Http, _Https, _NoRedirects)
    try:
        with opener.open(prepared, timeout=timeout):
            pass  # the body is of no use
    except urllib.error.HTTPError as error:
        with error:
            raise RequestFailed(
                _status_text(error), error.code, _retry_after(error.headers.get("Retry-After"))
            ) from None
    except urllib.error.URLError as error:
        raise RequestFailed(_reason(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RequestFailed(_reason(error)) from None


@lru_cache(1)
def _user_agent() -> str:
    from importlib.metadata import version  # slow to import

    return f"lineside/{version('lineside')}"


def _status_text(error: urllib.error.HTTPError) -> str:
    phrase = http.client.responses.get(error.code, "")
    text = f"the answer was {error.code} {phrase}".rstrip()
    return f"{text}, which is not followed" if 300 <= error.code < 400 else text


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
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
    except (TypeError, ValueError):
        return None
    return max(0.0, at - (time.time() if now is None else now))
