"""How much a request may bring."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_MAX = 1 << 20
"""Bytes of a body (1 MiB); what is asked for here takes a few thousand."""


class BodyLimitMiddleware:
    """ASGI middleware that ends the reading of a body that is too large, so that it is answered
    with a problem document and never held in memory."""

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

        # Of a GET only whether its reader has left is asked for, in the middle of the answer.
        has_body = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD")
        await self.app(scope, receive_bounded if has_body else receive, send)
