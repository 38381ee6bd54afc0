"""Login of a browser: a form that takes a token, and a cookie that keeps it."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from lineside.bus.auth.keyring import Keyring
from lineside.dashboard.auth.access import COOKIE, LOGIN, find_valid_entry, refusal
from lineside.dashboard.backend.refusal_publisher import RefusalPublisher
from lineside.dashboard.http.site_root import site_root
from lineside.dashboard.pages.renderer import Renderer

_BODY_MAX = 4096
_UNKNOWN = "This token is not known here or was revoked."


def router(keyring: Keyring, refusal_publisher: RefusalPublisher, renderer: Renderer) -> APIRouter:
    """``/login`` and ``/logout``."""
    routes = APIRouter(include_in_schema=False)

    def form(request: Request, next_path: str, error: str = "") -> Response:
        code = 401 if error else 200
        return renderer.page(request, "login.html", code=code, next_path=next_path, error=error)

    @routes.get(LOGIN)
    def login_form(request: Request) -> Response:
        return form(request, _own_path(request.query_params.get("next", "/")))

    @routes.post(LOGIN)
    async def log_in(request: Request) -> Response:
        fields = await _fields(request)
        token, next_path = fields.get("token", "").strip(), _own_path(fields.get("next", "/"))
        if find_valid_entry(keyring, token) is None:
            refusal_publisher.add(refusal(keyring, token, request.scope, _UNKNOWN))
            return form(request, next_path, _UNKNOWN)
        redirect = RedirectResponse(site_root(request.scope) + next_path[1:], status_code=303)
        # Lax, so that a link on another site opens a page here; that site cannot read it.
        # Without a path, so that it is for the dashboard's own folder, which a proxy may have put
        # beside other people's.
        is_encrypted = request.url.scheme == "https"
        redirect.set_cookie(
            COOKIE, token, path=None, httponly=True, samesite="lax", secure=is_encrypted
        )
        return redirect

    @routes.post("/logout")
    def log_out(request: Request) -> Response:
        redirect = RedirectResponse(f"{site_root(request.scope)}login", status_code=303)
        redirect.set_cookie(COOKIE, "", max_age=0, path=None, httponly=True, samesite="lax")
        return redirect

    return routes


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; none if the body is longer than this form can be."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_MAX:
            return {}
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _own_path(path: str) -> str:
    """``path`` if it is a path of this site, else ``/``."""
    is_own_path = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_own_path and path.isascii() else "/"
