"""Webhooks as in Standard Webhooks 1.0 (standardwebhooks.com): signed with HMAC-SHA256, ``v1``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from http import HTTPStatus

from lineside.subscribers.watchdog.notification.http_request import (
    TIMEOUT_SECONDS,
    RequestFailed,
    request,
)
from lineside.subscribers.watchdog.notification.message import Message
from lineside.subscribers.watchdog.notification.target import DeliveryFailed

PREFIX = "whsec_"
"""How a serialised secret begins."""
_MIN_BYTES, _MAX_BYTES = 24, 64


def key_of(secret: str) -> bytes:
    """The key that ``secret``, ``whsec_`` and base64, holds.

    Raises:
        ValueError: it holds none.
    """
    expected = "whsec_ and the base64 of 24 to 64 random bytes"
    encoded = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(expected) from None
    if not secret.startswith(PREFIX) or not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise ValueError(expected)
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header ``webhook-signature``."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


class Webhook:
    """POSTs messages to ``url``, signed with ``secret``."""

    def __init__(self, url: str, secret: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._key = key_of(secret)
        self._timeout = timeout

    def send(self, message: Message) -> None:
        body = json.dumps(message.to_json(), allow_nan=False, separators=(",", ":")).encode()
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._key, message.id, timestamp, body),
        }
        try:
            request(self._url, body, headers, self._timeout)
        except RequestFailed as error:
            is_gone = error.status == HTTPStatus.GONE
            raise DeliveryFailed(
                str(error), retry_after=error.retry_after, is_final=is_gone
            ) from None
