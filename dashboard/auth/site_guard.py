"""Protection against other sites: Host check, same-site check and security headers.

Loopback requires no token, so any web page in the same browser could send requests here. A page
whose name was rebound to 127.0.0.1 sends its own name as Host. A page of another site that posts
here is recognised by Sec-Fetch-Site or Origin. With tokens any Host is accepted: the cookie is
bound to the dashboard's name, and a page under another name has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineside.bus.auth.refusal_log import Refusal
from lineside.dashboard.auth.caller import address_of
from lineside.dashboard.http.problems import Problem, response

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]+)?")

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class SecurityMiddleware:
    """ASGI middleware around the whole application.

    ``hosts`` are the accepted Host names without port; None accepts any. ``on_refusal`` receives
    each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str] | None = LOOPBACK_NAMES,
        on_refusal: Callable[[Refusal], None] | None = None,
    ) -> None:
        self.app = app
        self.hosts = hosts
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._check_request(scope["method"], headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        if refused is None:
            await self.app(scope, receive, send_guarded)
        else:
            if self._on_refusal is not None:
                caller_name = address_of(scope)
                self._on_refusal(Refusal(caller_name, "", "http", scope["path"], refused.detail))
            await response(refused, scope["path"])(scope, receive, send_guarded)

    def _check_request(self, method: str, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        name = host_name(host)
        if name is None or (self.hosts is not None and name not in self.hosts):
            detail = (
                f"This dashboard does not serve the host name {host!r}: open it as its own name."
            )
            if self.hosts is not None:
                names = ", ".join(sorted(self.hosts))
                detail = (
                    f"This dashboard does not serve the host name {host!r}: open it as {names}, or "
                    "start it with --tokens, which accepts the name of a proxy in front."
                )
            return Problem(421, "wrong-host", "Wrong host name", detail)
        if method not in SAFE_METHODS and _cross_site(headers, host):
            detail = (
                f"A {method} from another site is refused: send it from a page of this dashboard."
            )
            return Problem(403, "cross-site", "From another site", detail)
        return None


def host_name(host: str) -> str | None:
    """The name in a Host header without port and brackets; None if malformed."""
    found = _HOST.fullmatch(host)
    return found.group(1).strip("[]").lower() if found else None


def _cross_site(headers: Headers, host: str) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != host
