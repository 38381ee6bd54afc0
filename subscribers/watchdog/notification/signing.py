"""Signs webhooks as in Standard Webhooks 1.0 (standardwebhooks.com): HMAC-SHA256, ``v1``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

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
