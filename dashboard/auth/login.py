"""The way in for a browser: a form that takes a token, and a cookie that keeps it."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from lineside.bus.auth.keyring import Keyring
from lineside.dashboard.auth.access import COOKIE, LOGIN, find, refusal
from lineside.dashboard.backend.audit import Audit
from lineside.dashboard.pages.render import Renderer

_BODY_MAX = 4096
_UNKNOWN = "This token is not known here, or was revoked."


def router(keyring: Keyring, audit: Audit, renderer: Renderer) -> APIRouter:
    """``/login`` and ``/logout``."""
    routes = APIRouter(include_in_schema=False)

    def form(request: Request, onward: str, wrong: str = "") -> Response:
        code = 401 if wrong else 200
        return renderer.page(request, "login.html", code=code, onward=onward, wrong=wrong)

    @routes.get(LOGIN)
    def show(request: Request) -> Response:
        return form(request, _within(request.query_params.get("next", "/")))

    @routes.post(LOGIN)
    async def log_in(request: Request) -> Response:
        said = await _fields(request)
        token, onward = said.get("token", "").strip(), _within(said.get("next", "/"))
        if find(keyring, token) is None:
            audit.note(refusal(keyring, token, request.scope, _UNKNOWN))
            return form(request, onward, _UNKNOWN)
        answer = RedirectResponse(onward, status_code=303)
        # Lax: a link on another site leads in. It can only look, and that site does not see it.
        is_encrypted = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, token, path="/", httponly=True, samesite="lax", secure=is_encrypted
        )
        return answer

    @routes.post("/logout")
    def log_out() -> Response:
        answer = RedirectResponse(LOGIN, status_code=303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
        return answer

    return routes


async def _fields(request: Request) -> dict[str, str]:
    """What a form says, if it is no longer than one of ours can be."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_MAX:
            return {}
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _within(path: str) -> str:
    """``path`` if it leads to a page of ours."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours and path.isascii() else "/"
