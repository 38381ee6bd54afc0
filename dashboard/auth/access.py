"""Access by token (``Authorization: Bearer`` or a cookie) and role."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineside.bus.auth.keyring import TOKEN, Credential, Keyring, token_hash
from lineside.bus.auth.refusal_log import Refusal
from lineside.bus.auth.roles import ADMIN, CONTROL, READ
from lineside.dashboard.auth.caller import address_of, denial_reason
from lineside.dashboard.backend.refusal_publisher import RefusalPublisher
from lineside.dashboard.http.problems import ErrorPage, Problem, response, wants_page
from lineside.dashboard.http.site_root import site_root

COOKIE = "lineside_token"
LOGIN = "/login"
_ROLE_BY_METHOD = {"GET": READ, "HEAD": READ, "OPTIONS": READ, "DELETE": ADMIN}
"""Role that each method requires; other methods require control."""
_PUBLIC_PATHS = (LOGIN, "/logout", "/static/", "/healthz", "/readyz")


class TokenAuthMiddleware:
    """ASGI middleware that requires a token of ``keyring`` with the role of the method.

    The role is read to look, control to change or command, admin to delete.
    ``request.state.caller`` is the token's principal, or None.
    """

    def __init__(
        self, app: ASGIApp, keyring: Keyring, refusal_publisher: RefusalPublisher, page: ErrorPage
    ) -> None:
        self.app = app
        self._keyring = keyring
        self._refusal_publisher = refusal_publisher
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        token = request_token(Headers(scope=scope))
        credential = find_valid_entry(self._keyring, token)
        scope.setdefault("state", {})["caller"] = credential.principal if credential else None
        if scope["path"].startswith(_PUBLIC_PATHS):
            await self.app(scope, receive, send)
            return
        refused = self._check_request(scope, token, credential)
        if refused is not None:
            await self._respond(Request(scope), refused)(scope, receive, send)
            return
        has_ended = False

        async def send_while_valid(message: Message) -> None:
            nonlocal has_ended
            if has_ended:
                return
            if message.get("more_body") and find_valid_entry(self._keyring, token) is None:
                has_ended = True  # revoked while the stream was open
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self.app(scope, receive, send_while_valid)

    def _check_request(
        self, scope: Scope, token: str, credential: Credential | None
    ) -> Problem | None:
        needed = _ROLE_BY_METHOD.get(scope["method"], CONTROL)
        if credential is None:
            title, why = "A token is needed", "no token was shown"
            if token:
                title, why = "Token not valid", "the token is not known here or was revoked"
            detail = (
                f"This dashboard requires a token, and {why}. `lineside keys new NAME "
                f"--role {needed} --token` on the dashboard's machine makes one."
            )
            problem = Problem(401, "no-access", title, detail)
        else:
            why = denial_reason(credential.principal, scope["method"], needed)
            if not why:
                return None
            detail = f"Refused: {why}."
            problem = Problem(403, "not-allowed", "Not allowed", detail, {"role": needed})
        is_first_visit = not token and wants_page(Request(scope))
        if not is_first_visit:
            self._refusal_publisher.add(refusal(self._keyring, token, scope, why))
        return problem

    def _respond(self, request: Request, problem: Problem) -> Response:
        if not wants_page(request):
            headers = {"www-authenticate": "Bearer"} if problem.status == 401 else None
            return response(problem, request.url.path, headers)
        if problem.status != 401:
            return self._page(request, problem)
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(
            f"{site_root(request.scope)}login?next={quote(target, safe='')}", status_code=303
        )


def find_valid_entry(keyring: Keyring, token: str) -> Credential | None:
    """The entry of ``token`` in the keyring, if it exists and is not revoked."""
    credential = _find_entry(keyring, token)
    return credential if credential is not None and not credential.revoked else None


def refusal(keyring: Keyring, token: str, scope: Scope, why: str) -> Refusal:
    """The refusal of a request with ``token``, which may be empty, unknown or revoked."""
    credential = _find_entry(keyring, token)
    if credential is None:
        return Refusal(address_of(scope), "", "http", scope["path"], why)
    return Refusal(credential.name, credential.principal.role_names, "http", scope["path"], why)


def _find_entry(keyring: Keyring, token: str) -> Credential | None:
    return keyring.find(TOKEN, token_hash(token)) if token else None


def request_token(headers: Headers) -> str:
    """The token of a request; empty if it has none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
