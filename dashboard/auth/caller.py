"""The client of a request: its name, its roles, its address."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request
from starlette.types import Scope

from lineside.bus.auth.roles import LOCAL, Principal

DEFAULT_ISSUER = "user@dashboard"
"""The issuer of a command that came without a token."""


def caller(request: Request) -> Principal | None:
    """The client: ``LOCAL`` on a dashboard without tokens; None without a valid token."""
    found: Principal | None = getattr(request.state, "caller", LOCAL)
    return found


def issuer(request: Request) -> str:
    """The issuer of a command that ``request`` asks for."""
    known = caller(request)
    return known.name if known and known.name else DEFAULT_ISSUER


def denial_reason(principal: Principal | None, action: str, role: str) -> str:
    """Why ``principal`` may not do ``action``, which takes ``role``; empty if it may."""
    if principal is not None and (principal.is_admin or role in principal.roles):
        return ""
    has = f"{principal.name!r} has {principal.role_names}" if principal else "no token was shown"
    return f"{action} takes the role {role}, and {has}"


def address_of(scope: Scope) -> str:
    """The address of the client; empty if a proxy passed on something else."""
    client = scope.get("client")
    try:
        return str(ipaddress.ip_address(client[0])) if client else ""
    except ValueError:
        return ""
