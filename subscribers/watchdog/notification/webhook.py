"""Sends messages as signed JSON to an address."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from lineside.subscribers.http.request import (
    TIMEOUT_SECONDS,
    RequestFailed,
    Timeouts,
    request,
)
from lineside.subscribers.watchdog.notification.message import Message
from lineside.subscribers.watchdog.notification.signing import key_of, signature
from lineside.subscribers.watchdog.notification.target import DeliveryFailed


class Webhook:
    """POSTs messages to ``url``, signed with ``secret``."""

    def __init__(self, url: str, secret: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self.name = f"webhook {urlsplit(url).hostname}"
        self._url = url
        self._key = key_of(secret)
        self._timeouts = Timeouts(timeout, timeout)

    max_messages = 1

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._post(message)

    def _post(self, message: Message) -> None:
        body = json.dumps(message.to_json(), allow_nan=False, separators=(",", ":")).encode()
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._key, message.id, timestamp, body),
        }
        try:
            request(self._url, body, headers, self._timeouts)
        except RequestFailed as error:
            is_gone = error.status == HTTPStatus.GONE
            raise DeliveryFailed(
                str(error), retry_after=error.retry_after, is_final=is_gone
            ) from None
