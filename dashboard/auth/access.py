"""Who may ask: tokens, shown as ``Authorization: Bearer`` or by a browser's cookie, and roles."""

from __future__ import annotations

import ipaddress
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineside.bus.auth.audit import Refusal
from lineside.bus.auth.keyring import TOKEN, Entry, Keyring, hash_token
from lineside.bus.auth.rights import ADMIN, CONTROL, LOCAL, READ, Rights
from lineside.dashboard.backend.audit import Audit
from lineside.dashboard.http.problems import ErrorPage, Problem, response, wants_page

COOKIE = "lineside_token"
LOGIN = "/login"
_NEEDED = {"GET": READ, "HEAD": READ, "OPTIONS": READ, "DELETE": ADMIN}
"""The role that a method takes; every other one takes control."""
_OPEN = (LOGIN, "/logout", "/static/", "/healthz", "/readyz")


def caller(request: Request) -> Rights | None:
    """Who asks: ``LOCAL`` where tokens are not asked for, None on an open page without one."""
    found: Rights | None = getattr(request.state, "caller", LOCAL)
    return found


def why_not(rights: Rights | None, what: str, role: str) -> str:
    """Why who has ``rights`` may not do ``what``, which takes ``role``; empty if he may."""
    if rights is not None and (rights.is_admin or role in rights.roles):
        return ""
    has = f"{rights.name!r} has {rights.said}" if rights else "no token was shown"
    return f"{what} takes the role {role}, and {has}"


class Access:
    """ASGI middleware that lets in who shows a token of ``keyring`` with the role that the method
    takes: read to look, control to change or command, admin to delete. ``request.state.user`` is
    then the token's name."""

    def __init__(self, app: ASGIApp, keyring: Keyring, audit: Audit, page: ErrorPage) -> None:
        self.app = app
        self._keyring = keyring
        self._audit = audit
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        token = shown_token(Headers(scope=scope))
        entry = find(self._keyring, token)
        state = scope.setdefault("state", {})
        state["caller"] = entry.rights if entry else None
        if entry is not None:
            state["user"] = entry.name
        if scope["path"].startswith(_OPEN):
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope, token, entry)
        if refused is not None:
            await self._answer(Request(scope), refused)(scope, receive, send)
            return
        has_ended = False

        async def send_while_good(message: Message) -> None:
            nonlocal has_ended
            if has_ended:
                return
            if message.get("more_body") and find(self._keyring, token) is None:
                has_ended = True  # revoked while a stream was open
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self.app(scope, receive, send_while_good)

    def _refused(self, scope: Scope, token: str, entry: Entry | None) -> Problem | None:
        needed = _NEEDED.get(scope["method"], CONTROL)
        if entry is None:
            title, why = "A token is needed", "no token was shown"
            if token:
                title, why = "Not a good token", "the token is not known here, or was revoked"
            detail = (
                f"Asking here takes a token, and {why}. `lineside keys new NAME --role {needed} "
                "--token` on this dashboard's machine makes one."
            )
            problem = Problem(401, "no-access", title, detail)
        else:
            why = why_not(entry.rights, scope["method"], needed)
            if not why:
                return None
            detail = f"Refused: {why}."
            problem = Problem(403, "not-allowed", "Not allowed", detail, {"role": needed})
        is_first_look = not token and wants_page(Request(scope))
        if not is_first_look:
            self._audit.note(refusal(self._keyring, token, scope, why))
        return problem

    def _answer(self, request: Request, problem: Problem) -> Response:
        if not wants_page(request):
            shown = {"www-authenticate": "Bearer"} if problem.status == 401 else None
            return response(problem, request.url.path, shown)
        if problem.status != 401:
            return self._page(request, problem)
        there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{LOGIN}?next={quote(there, safe='')}", status_code=303)


def find(keyring: Keyring, token: str) -> Entry | None:
    """The good token that ``token`` is, if it is one."""
    entry = _listed(keyring, token)
    return entry if entry is not None and not entry.revoked else None


def refusal(keyring: Keyring, token: str, scope: Scope, why: str) -> Refusal:
    """What is noted of who showed ``token``, which may be none, unknown, or revoked by now."""
    entry = _listed(keyring, token)
    who, role = (entry.name, entry.rights.said) if entry else (address_of(scope), "")
    return Refusal(who, role, "http", scope["path"], why)


def _listed(keyring: Keyring, token: str) -> Entry | None:
    return keyring.find(TOKEN, hash_token(token)) if token else None


def shown_token(headers: Headers) -> str:
    """The token a request shows; empty if it shows none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def address_of(scope: Scope) -> str:
    """Where a request comes from; empty if a header that a proxy passed on says no address."""
    client = scope.get("client")
    try:
        return str(ipaddress.ip_address(client[0])) if client else ""
    except ValueError:
        return ""
