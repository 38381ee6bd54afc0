"""The size limit of request bodies."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_MAX = 1 << 20
"""Largest body in bytes (1 MiB); real requests have a few thousand."""


class BodyLimitMiddleware:
    """ASGI middleware that stops reading a body that is too large and answers with status 413."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_MAX:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        # A GET has no body; there ``receive`` only reports a disconnect during the response.
        has_body = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD")
        await self.app(scope, receive_bounded if has_body else receive, send)
