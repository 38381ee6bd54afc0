"""One receiver: POSTs bodies to its address, and reads from the answer whether to try again."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from lineside.subscribers.http.request import RequestFailed, Timeouts, request
from lineside.subscribers.uploader.options import ReceiverOptions
from lineside.subscribers.uploader.sinks.sink import Refused, TooLarge, Unavailable

ANSWER_CHARACTERS = 500
"""How much of an answer is shown."""
_REDACTED = "<redacted>"
_MAX_RETRY_AFTER = 86_400.0
_SECRET_NAME = re.compile(r"key|token|secret|pass|auth|sig|^p$|^u$", re.IGNORECASE)
_MIN_SECRET = 4  # characters: a shorter one would be found in any text
_TOKEN_CHARACTERS = 16  # of a part of a path, from which on it may be one
_COMPRESS_BYTES = 200  # from which on compression is worth its header
# About the upload as a whole, which a person can mend: the batch is not the fault.
_OF_THE_UPLOAD = {
    HTTPStatus.UNAUTHORIZED: "check the key",
    HTTPStatus.PAYMENT_REQUIRED: "check the account",
    HTTPStatus.FORBIDDEN: "check the key",
    HTTPStatus.NOT_FOUND: "check the url",
    HTTPStatus.METHOD_NOT_ALLOWED: "check the url",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "check the proxy",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "check sink and gzip",
}
_TEMPORARY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class Receiver:
    """The receiver of ``options``. ``scheme`` is the word before the key in ``Authorization``."""

    def __init__(self, options: ReceiverOptions, scheme: str = "Bearer") -> None:
        self._url, self._headers = _without_user(options.url)
        if options.key:
            self._headers["Authorization"] = f"{scheme} {options.key}"
        self._headers.update(options.headers)
        self._gzip = options.gzip
        self._timeouts = Timeouts(options.connect_timeout, options.timeout, options.timeout)
        secrets = _secrets(options, self._headers)
        found = {one for one in secrets if len(one) >= _MIN_SECRET}
        ordered = sorted(found, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def post(
        self,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] | None = None,
        *,
        max_answer: int = 0,
    ) -> bytes:
        """Send ``body``; the first ``max_answer`` bytes of the answer.

        Raises:
            Unavailable: it was not taken now.
            Refused: it never will be.
        """
        sent = {"Content-Type": content_type, **(headers or {}), **self._headers}
        if self._gzip and len(body) >= _COMPRESS_BYTES and "Content-Encoding" not in sent:
            body = gzip.compress(body, compresslevel=3, mtime=0)
            sent["Content-Encoding"] = "gzip"
        try:
            return request(self._url, body, sent, self._timeouts, max_answer=max_answer)
        except RequestFailed as error:
            raise self._translate(error) from None

    def redact(self, text: str) -> str:
        """``text`` of a receiver without key, headers and passwords, cut to a few lines."""
        found = " ".join(text.split())
        if self._secrets:
            found = self._secrets.sub(_REDACTED, found)
        return found[:ANSWER_CHARACTERS]

    def _translate(self, error: RequestFailed) -> Exception:
        status, answer = error.status, self.redact(error.answer)
        reason = self.redact(f"{error}: {answer}" if answer else str(error))
        wait = None if error.retry_after is None else min(error.retry_after, _MAX_RETRY_AFTER)
        if status in _OF_THE_UPLOAD:
            return Unavailable(f"{reason} ({_OF_THE_UPLOAD[HTTPStatus(status)]})", wait)
        if status is None or status in _TEMPORARY or not 400 <= status < 500:
            return Unavailable(reason, wait)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(reason)
        return Refused(reason)


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """``url`` without user and password, and the header that they make."""
    import base64

    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, {}
    user_info, _, host = parts.netloc.rpartition("@")
    encoded = base64.b64encode(unquote(user_info).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {encoded}"}


def _secrets(options: ReceiverOptions, headers: Mapping[str, str]) -> set[str]:
    """What may be a secret in the address and the headers, as written and as a URL has it.

    Of a header it is the value, and that without its scheme, as in ``Bearer KEY``.
    """
    parts = urlsplit(options.url)
    found = {options.key, parts.username or "", parts.password or ""}
    found |= {one for value in headers.values() for one in (value, value.rpartition(" ")[2])}
    found |= {value for name, value in parse_qsl(parts.query) if _SECRET_NAME.search(name)}
    found |= {part for part in parts.path.split("/") if len(part) >= _TOKEN_CHARACTERS}
    return found | {quote(one, safe="") for one in found} | {unquote(one) for one in found}
